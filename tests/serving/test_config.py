"""The recipe of a service: defaults, what is refused, and what Ray Serve is told."""

from __future__ import annotations

import pytest

from foundation.config import load
from foundation.errors import ConfigError
from serving.config import AutoscalingConfig, BatchingConfig, ServiceConfig, autoscaling_options, deployment_options


def test_serve_listens_on_loopback_by_default_and_a_wildcard_is_reached_there_too() -> None:
    assert ServiceConfig(model="reviews@champion").url == "http://127.0.0.1:8000"
    assert ServiceConfig(model="reviews@champion", host="0.0.0.0", port=9001).url == "http://127.0.0.1:9001"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prot=1", "prot: unknown key; did you mean port?"),
        ("port=0", "port: found 0"),
        ("batching.max_batch_rows=0", "batching.max_batch_rows: found 0"),
        ("autoscaling.preset=huge", "autoscaling.preset: found 'huge'"),
        ("autoscaling.min_replicas=5", "min_replicas is 5"),
        ("name=A/B", "name: found 'A/B'"),
    ],
)
def test_a_wrong_key_is_named(override: str, message: str) -> None:
    overrides = ["model=reviews@champion", "autoscaling.max_replicas=2", override]
    with pytest.raises(ConfigError) as refused:
        load(ServiceConfig, None, overrides)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("preset", "cpus", "replicas"), [("fixed", 8, (1, 1)), ("small", 8, (1, 2)), ("medium", 2, (1, 2)), ("small", 1, (1, 1))]
)
def test_a_preset_says_how_many_replicas_and_never_more_than_fit(preset: str, cpus: float, replicas: tuple[int, int]) -> None:
    config = load(ServiceConfig, None, ["model=m", f"autoscaling.preset={preset}"])
    options = autoscaling_options(config, cpus)
    assert (options["min_replicas"], options["max_replicas"]) == replicas
    assert options["initial_replicas"] == replicas[0]


def test_ray_serve_accepts_the_options_and_its_cap_stays_above_ours() -> None:
    from ray.serve.config import AutoscalingConfig as OfServe

    config = ServiceConfig(model="m", autoscaling=AutoscalingConfig(preset="large"), batching=BatchingConfig(max_batch_rows=8))
    options = deployment_options(config, 64)
    accepted = OfServe(**options["autoscaling_config"])
    assert (accepted.min_replicas, accepted.max_replicas, accepted.target_ongoing_requests) == (2, 8, 4)
    assert options["max_ongoing_requests"] * 3 >= config.max_queue_tokens
