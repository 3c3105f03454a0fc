"""The loss scale of fp16 as a pure function of what became of each step, so that a checkpoint can carry it and a resumed run goes on alike.

PyTorch's ``GradScaler`` has the same rule; DeepSpeed's own scalers each have another, and none of them stands in a checkpoint of ours.
Factors are powers of two: where nothing overflows, scaling changes no bit of a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

GROWTH_STEPS = 1000
"""Finite steps in a row after which the factor doubles."""
LEAST, MOST = 1.0, 2.0**24


@dataclass(frozen=True)
class LossScale:
    """What losses are multiplied by before the backward pass, and gradients divided by after it."""

    factor: float = 2.0**13
    """Lower than the usual 2^16, so that a run does not begin with skipped steps; it grows to what fits."""
    finite_steps: int = 0
    """In a row, at this factor."""

    @property
    def can_fall(self) -> bool:
        """Whether a gradient that is not finite may be the factor's fault."""
        return self.factor > LEAST

    def after(self, is_finite: bool) -> LossScale:
        """The scale of the next step: half after an overflow, double after ``GROWTH_STEPS`` without one."""
        if not is_finite:
            return LossScale(max(LEAST, self.factor / 2))
        if self.finite_steps + 1 < GROWTH_STEPS:
            return LossScale(self.factor, self.finite_steps + 1)
        return LossScale(min(MOST, self.factor * 2))
