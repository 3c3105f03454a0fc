"""Counters of one replica in Prometheus' format. Each replica has its own registry; nothing here is global."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

_LATENCY_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)


class Metrics:
    """What one replica counts; also the batcher's observer."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, replica: str = "local") -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("raybert_requests", "Requests by route and HTTP status.", ["route", "status"], registry=self.registry)
        self._latency = Histogram(
            "raybert_request_seconds", "Time from request to answer.", ["route"], buckets=_LATENCY_S, registry=self.registry
        )
        self._texts = Counter("raybert_texts", "Texts answered.", registry=self.registry)
        self._tokens = Counter("raybert_tokens", "Tokens run, padding not counted.", registry=self.registry)
        self._padded = Counter("raybert_padded_tokens", "Tokens run, padding counted.", registry=self.registry)
        self._padding = Histogram(
            "raybert_batch_padding_ratio", "Share of a forward pass that is padding.", buckets=_SHARES, registry=self.registry
        )
        self._rows = Histogram("raybert_batch_rows", "Texts in one forward pass.", buckets=_ROWS, registry=self.registry)
        self._forward = Histogram("raybert_forward_seconds", "Time of one forward pass.", buckets=_LATENCY_S, registry=self.registry)
        self._dropped = Counter("raybert_dropped_rows", "Texts that left the queue unread.", ["reason"], registry=self.registry)
        self._queue_tokens = Gauge("raybert_queue_tokens", "Tokens that wait.", registry=self.registry)
        self._queue_rows = Gauge("raybert_queue_rows", "Texts that wait.", registry=self.registry)
        self._model = Gauge("raybert_model_info", "The model that answers.", ["model", "version", "digest"], registry=self.registry)
        self._swaps = Counter("raybert_model_swaps", "Tries to follow the alias to another version.", ["outcome"], registry=self.registry)
        Gauge("raybert_replica_info", "The replica that wrote this page.", ["replica"], registry=self.registry).labels(replica).set(1)

    def watch_queue(self, tokens: Callable[[], int], rows: Callable[[], int]) -> None:
        """Read the queue's depth whenever the page is asked for."""
        self._queue_tokens.set_function(tokens)
        self._queue_rows.set_function(rows)

    def request(self, *, route: str, status: int, seconds: float) -> None:
        """Count one answered or refused request."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def answered(self, *, texts: int) -> None:
        """Count texts that got their answer."""
        self._texts.inc(texts)

    def batch(self, *, rows: int, tokens: int, padded_tokens: int, seconds: float) -> None:
        """Count one forward pass."""
        self._rows.observe(rows)
        self._tokens.inc(tokens)
        self._padded.inc(padded_tokens)
        self._padding.observe(1 - tokens / padded_tokens if padded_tokens else 0.0)
        self._forward.observe(seconds)

    def dropped(self, *, rows: int, reason: str) -> None:
        """Count texts that left the queue unread."""
        self._dropped.labels(reason).inc(rows)

    def serves(self, *, model: str, version: str, digest: str) -> None:
        """Name the model that answers from now on."""
        self._model.clear()
        self._model.labels(model, version, digest).set(1)

    def swap(self, outcome: str) -> None:
        """Count a try to follow the alias: ``done`` or ``refused``."""
        self._swaps.labels(outcome).inc()

    def page(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
