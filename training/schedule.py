"""The learning rate as a pure function of the step: resuming at any step needs no state."""

from __future__ import annotations

import math

from training.optimiser_config import ScheduleConfig


def learning_rate(step: int, *, steps: int, config: ScheduleConfig) -> float:
    """The rate of step ``step`` (0-based) of ``steps``: linear warm-up, then the configured decay to ``final_share`` of the peak."""
    warmup = round(config.warmup_share * steps)
    if step < warmup:
        return config.peak_lr * (step + 1) / warmup
    falls_from = max(warmup, steps - max(1, round(config.decay_share * steps))) if config.decay == "wsd" else warmup
    if config.decay == "constant" or step < falls_from:
        return config.peak_lr
    done = (step - falls_from) / max(1, steps - falls_from)
    return config.peak_lr * (config.final_share + (1 - config.final_share) * remaining(done, config))


def remaining(done: float, config: ScheduleConfig) -> float:
    """The share of a decay that is still to come: from 1 at ``done`` 0 down to 0 at ``done`` 1, never rising."""
    shape = config.decay_shape if config.decay == "wsd" else config.decay
    match shape:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        case "one_minus_sqrt":
            return 1 - math.sqrt(done)
        case "constant":
            return 1.0
        case _:
            return 1 - done
