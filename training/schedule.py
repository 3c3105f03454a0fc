"""The learning rate as a pure function of the step: resuming at any step needs no state."""

from __future__ import annotations

import math

from training.config import ScheduleConfig


def learning_rate(step: int, *, steps: int, config: ScheduleConfig) -> float:
    """The rate of step ``step`` (0-based) of ``steps``: linear warm-up, then the configured decay to ``final_share`` of the peak."""
    warmup = round(config.warmup_share * steps)
    if step < warmup:
        return config.peak_lr * (step + 1) / warmup
    if config.decay == "constant":
        return config.peak_lr
    done = (step - warmup) / max(1, steps - warmup)
    falling = 1 - done if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.peak_lr * (config.final_share + (1 - config.final_share) * falling)
