"""The recipe of ``serve up``: which model, where, how it batches, how it scales. Pure data; imports pydantic and foundation only.

Read next: ``app.py``, which turns it into a Ray Serve application, and ``batching.py``, which obeys the limits.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from foundation.config import Config, RefText

Preset = Literal["fixed", "small", "medium", "large"]

PRESETS: dict[Preset, tuple[int, int]] = {"fixed": (1, 1), "small": (1, 2), "medium": (1, 4), "large": (2, 8)}
"""Preset to its smallest and largest number of replicas."""


class BatchingConfig(Config):
    """What may run together in one forward pass."""

    max_batch_tokens: int = Field(2048, ge=1)
    """Padded cost of one forward pass: rows times the longest row. A CPU gains little beyond 2048; a GPU wants 16384."""
    max_batch_rows: int = Field(32, ge=1)
    """Most texts in one forward pass."""
    max_wait_ms: float = Field(0.0, ge=0, le=1000)
    """How long the oldest text may wait for company while the model is idle. 0: texts gather only while a forward pass runs."""


class AutoscalingConfig(Config):
    """How many replicas, and when another one starts."""

    preset: Preset = "small"
    """fixed: 1; small: 1 to 2; medium: 1 to 4; large: 2 to 8 replicas."""
    min_replicas: int | None = Field(None, ge=1)
    """Overrides the preset's smallest number."""
    max_replicas: int | None = Field(None, ge=1)
    """Overrides the preset's largest number."""
    requests_per_replica: float | None = Field(None, gt=0)
    """Requests in progress that one replica is meant to have; more start another one. Default: half of ``batching.max_batch_rows``."""
    upscale_delay_s: float = Field(5.0, ge=0)
    """How long the load must be high before a replica is added."""
    downscale_delay_s: float = Field(60.0, ge=0)
    """How long the load must be low before a replica is removed."""

    @property
    def replicas(self) -> tuple[int, int]:
        """Smallest and largest number of replicas in force."""
        least, most = PRESETS[self.preset]
        least = self.min_replicas or least
        return least, self.max_replicas or max(most, least)

    @model_validator(mode="after")
    def _ordered(self) -> AutoscalingConfig:
        least, most = self.replicas
        if least > most:
            raise ValueError(f"min_replicas is {least} and max_replicas is {most}; the first may not be larger")
        return self


class ServiceConfig(Config):
    """One served classifier."""

    model: RefText
    """What to serve: NAME@alias (running replicas follow the alias), NAME/version, or a bundle's folder."""
    name: str = Field("classifier", pattern=r"^[a-z][a-z0-9-]{0,40}$")
    """The application's name; `serve status` and `serve down` use it."""
    host: str = "127.0.0.1"
    """Address to listen on. There is no authentication yet: put anything but loopback behind a gateway that has it."""
    port: int = Field(8000, ge=1, le=65535)
    """Port to listen on."""
    batching: BatchingConfig = BatchingConfig()
    """What may run together in one forward pass."""
    autoscaling: AutoscalingConfig = AutoscalingConfig()
    """How many replicas, and when."""
    max_queue_tokens: int = Field(65536, ge=1)
    """Tokens that may wait in one replica; a request beyond it gets 429 and Retry-After. An idle replica takes any allowed request."""
    max_texts_per_request: int = Field(256, ge=1)
    """Most texts in one request (413 beyond it); larger ones belong into `raybert classify`."""
    max_body_bytes: int = Field(2_000_000, ge=1)
    """Largest request body (413 beyond it)."""
    request_timeout_s: float = Field(30.0, gt=0)
    """A request that is not answered by then gets 504, and its texts leave the queue unread."""
    cpus_per_replica: float = Field(1.0, gt=0)
    """CPUs that Ray reserves for one replica."""
    threads_per_replica: int | None = Field(None, ge=1)
    """torch's threads in one replica. Default: ``cpus_per_replica``, at least one."""
    follow_every_s: float = Field(5.0, gt=0)
    """How often a replica asks the registry whether the alias has moved."""
    drain_s: float = Field(20.0, ge=0)
    """How long a replica that is being removed may finish what it has accepted."""

    @property
    def threads(self) -> int:
        """torch's threads in one replica."""
        return self.threads_per_replica or max(1, int(self.cpus_per_replica))

    @property
    def url(self) -> str:
        """Where a client on this machine finds it."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{host}:{self.port}"


def autoscaling_options(config: ServiceConfig, cpus_available: float | None = None) -> dict[str, Any]:
    """Arguments of Ray Serve's ``AutoscalingConfig``.

    Args:
        config: The recipe.
        cpus_available: CPUs of the cluster; the largest number of replicas is cut to what fits.
    """
    least, most = config.autoscaling.replicas
    if cpus_available is not None:
        most = max(least, min(most, int(cpus_available / config.cpus_per_replica + 1e-9)))
    wanted = config.autoscaling.requests_per_replica or max(2.0, config.batching.max_batch_rows / 2)
    return {
        "min_replicas": least,
        "initial_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": wanted,
        "upscale_delay_s": config.autoscaling.upscale_delay_s,
        "downscale_delay_s": config.autoscaling.downscale_delay_s,
        # Replicas report their load this often; Serve's default of 10 s would hide a short delay.
        "metrics_interval_s": 1.0,
        "look_back_period_s": max(2.0, min(10.0, config.autoscaling.upscale_delay_s)),
    }


def deployment_options(config: ServiceConfig, cpus_available: float | None = None) -> dict[str, Any]:
    """Arguments of ``serve.deployment``, but for the replica's environment."""
    # Admission is ours and counts tokens. Serve's own cap must stay above it, or requests
    # would pile up in the proxy, unseen by the batcher.
    shortest_text_tokens = 3
    return {
        "name": "replica",
        "autoscaling_config": autoscaling_options(config, cpus_available),
        "max_ongoing_requests": max(1024, config.max_queue_tokens // shortest_text_tokens + 4 * config.batching.max_batch_rows),
        "graceful_shutdown_timeout_s": config.drain_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 10.0,
        "health_check_timeout_s": 30.0,
    }
