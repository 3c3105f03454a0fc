"""A run's record as a worker writes it, made up: rows for what reads records."""

from __future__ import annotations

from typing import Any


def attempt(time: float, step: int = 0, *, steps: int = 100, world_size: int = 2) -> dict[str, Any]:
    """A gang has begun."""
    row = {"event": "attempt", "time": time, "step": step, "steps": steps, "world_size": world_size, "attempt": "a1b2c3"}
    return row | {"engine": "deepspeed", "peak_flops": 1e11, "pid": 1}


def step(time: float, number: int, **changed: Any) -> dict[str, Any]:
    """A step of half a second and 500 tokens."""
    row = {"event": "step", "time": time, "step": number, "loss": 2.0 / (1 + number), "learning_rate": 1e-4, "grad_norm": 1.5}
    row |= {"is_applied": True, "tokens": 500, "seconds": 0.5, "loader_seconds": 0.1}
    return row | {"tokens_per_s": 1000.0, "mfu": 0.25, "memory_bytes": 600_000_000} | changed


def evaluation(time: float, step: int, **metrics: float) -> dict[str, Any]:
    """Held-out rows were scored."""
    row = {"event": "evaluation", "time": time, "step": step, "evaluation_seconds": 0.2}
    return row | (metrics or {"validation_loss": 0.7, "accuracy": 0.8}) | {"memory_bytes": 700_000_000}


def checkpoint(time: float, step: int) -> dict[str, Any]:
    """A checkpoint is whole."""
    return {"event": "checkpoint", "time": time, "step": step, "checkpoint_seconds": 0.3, "written_seconds": 0.9}
