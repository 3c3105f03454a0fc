"""Prometheus figures of a run, kept by Ray: every node's metrics endpoint has them, with Ray's prefix ``ray_``. All names are here.

Labels: ``run`` and ``rank``. What holds for the whole run is told by rank 0 alone, so that sums over ranks are right; the driver tells
goodput, as rank ``driver``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Kind = Literal["gauge", "counter", "histogram"]
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_TAGS = ("run", "rank")


class Figure(NamedTuple):
    """One metric."""

    kind: Kind
    meaning: str
    is_per_rank: bool = False
    """Told by every rank; else by rank 0."""


# Ray adds _total to the names of counters.
FIGURES = {
    "raybert_train_loss": Figure("gauge", "Loss of the last step, all ranks."),
    "raybert_train_learning_rate": Figure("gauge", "Learning rate of the last step."),
    "raybert_train_grad_norm": Figure("gauge", "Gradient norm of the last step, before clipping."),
    "raybert_train_step": Figure("gauge", "Steps done."),
    "raybert_train_tokens": Figure("counter", "Real tokens trained on, all ranks."),
    "raybert_train_tokens_per_second": Figure("gauge", "Real tokens a second in the last step, all ranks."),
    "raybert_train_mfu": Figure("gauge", "Share of the workers' measured peak FLOPs, last step."),
    "raybert_train_skipped_steps": Figure("counter", "Steps whose gradient was not applied."),
    "raybert_train_step_seconds": Figure("histogram", "Time of a step.", is_per_rank=True),
    "raybert_train_data_wait_seconds": Figure("histogram", "Of a step, the wait for its micro-batches.", is_per_rank=True),
    "raybert_train_memory_bytes": Figure("gauge", "Resident memory of the worker.", is_per_rank=True),
    "raybert_train_evaluation_seconds": Figure("histogram", "Time of an evaluation."),
    "raybert_train_checkpoint_seconds": Figure("histogram", "Time for which steps stood still for a checkpoint."),
    "raybert_train_written_seconds": Figure("histogram", "Time of writing a checkpoint, while steps went on."),
    "raybert_train_goodput": Figure("gauge", "Share of the run's wall-clock time that was computing steps which count."),
}


class Telemetry:
    """Tells Ray the figures of one process of a run; needs a process that Ray knows."""

    def __init__(self, run: str, rank: int | str) -> None:
        self._tags = {"run": run, "rank": str(rank)}
        self._is_first = rank in (0, "driver")
        self._made: dict[str, Any] = {}

    def step(self, values: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        """A step as its row holds it, and what was measured of it."""
        told = {
            "raybert_train_loss": values["loss"],
            "raybert_train_learning_rate": values["learning_rate"],
            "raybert_train_grad_norm": values["grad_norm"],
            "raybert_train_step": values["step"] + 1,
            "raybert_train_tokens": values["tokens"],
            "raybert_train_tokens_per_second": figures["tokens_per_s"],
            "raybert_train_mfu": figures["mfu"],
            "raybert_train_skipped_steps": 0 if values["is_applied"] else 1,
            "raybert_train_step_seconds": values["seconds"],
            "raybert_train_data_wait_seconds": values["loader_seconds"],
            "raybert_train_memory_bytes": figures["memory_bytes"],
        }
        for name, value in told.items():
            self.tell(name, value)

    def tell(self, name: str, value: float) -> None:
        """One figure by its name in ``FIGURES``."""
        figure = FIGURES[name]
        if not (self._is_first or figure.is_per_rank):
            return
        if name not in self._made:
            self._made[name] = _made(name, figure).set_default_tags(self._tags)
        metric = self._made[name]
        match figure.kind:
            case "gauge":
                metric.set(value)
            case "counter":
                if value > 0:  # Ray refuses an increase of nothing
                    metric.inc(value)
            case "histogram":
                metric.observe(value)


def _made(name: str, figure: Figure) -> Any:
    from ray.util import metrics

    match figure.kind:
        case "gauge":
            return metrics.Gauge(name, figure.meaning, _TAGS)
        case "counter":
            return metrics.Counter(name, figure.meaning, _TAGS)
        case "histogram":
            return metrics.Histogram(name, figure.meaning, list(_SECONDS), _TAGS)
