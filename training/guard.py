"""The guard: whether a step may be applied, as pure functions of its loss and of what is remembered of earlier ones.

It decides and never acts; ``loop.py`` does what it says. What it remembers is in every checkpoint, and the loss is that of all ranks, so
that every rank, and a resumed run, decides alike. Knows no engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import assert_never

from foundation.errors import RunError
from training.optimiser_config import GuardConfig

_NAMED_ROWS = 50


class GuardError(RunError):
    """The guard ended the run; trying again would end alike."""


@dataclass(frozen=True)
class Apply:
    """Step the optimiser."""


@dataclass(frozen=True)
class Skip:
    """Drop the step's gradient and go on; its rows are consumed."""

    reason: str
    row_ids: tuple[str, ...]
    """The step's rows, all ranks."""


@dataclass(frozen=True)
class Rescale:
    """Go on: the engine dropped a gradient that its loss scale made overflow, and lowered the scale. Not held against the run."""

    reason: str
    row_ids: tuple[str, ...]
    """The step's rows, all ranks."""


@dataclass(frozen=True)
class GiveUp:
    """Drop the step's gradient and end the run."""

    reason: str
    row_ids: tuple[str, ...]
    """The step's rows, all ranks."""


Decision = Apply | Skip | Rescale | GiveUp


@dataclass(frozen=True)
class Memory:
    """What a guard knows of the steps so far; part of ``checkpoint.Progress``."""

    losses: tuple[float, ...] = ()
    """Of the last applied steps, oldest first; empty when spikes are not looked for."""
    skipped_in_a_row: int = 0
    """Steps skipped since the last applied one."""


FRESH = Memory()
"""Before the first step."""
NOT_FINITE = GuardConfig()
"""Limits that skip only what is not finite."""
APPLIED = Apply()
"""What becomes of nearly every step."""


def objection(loss: float, memory: Memory, limits: GuardConfig) -> str | None:
    """Why a step with this loss (all ranks' together) must not be applied; None when it may be."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if limits.spike_factor is None or len(memory.losses) < limits.window:
        return None
    usual = median(memory.losses)
    if loss <= limits.spike_factor * usual:
        return None
    return (
        f"the loss is {loss:.4g}, more than {limits.spike_factor:g} times {usual:.4g}, the median of the last {limits.window} applied steps"
    )


def decide(reason: str | None, memory: Memory, limits: GuardConfig, row_ids: Sequence[str], *, is_rescaled: bool = False) -> Decision:
    """What to do with a step. Deterministic: same arguments, same decision.

    Args:
        reason: Why it is not to be applied: an ``objection``, or what the engine found in its gradient; None when nothing is wrong.
        memory: Of the steps before it.
        limits: The recipe's.
        row_ids: The step's rows, all ranks; read only when something is wrong.
        is_rescaled: Whether the engine lowered its loss scale for it.
    """
    if reason is None:
        return APPLIED
    if is_rescaled:
        return Rescale(reason, tuple(row_ids))
    if memory.skipped_in_a_row + 1 < limits.stop_after:
        return Skip(reason, tuple(row_ids))
    return GiveUp(reason, tuple(row_ids))


def remember(memory: Memory, loss: float, decision: Decision, limits: GuardConfig) -> Memory:
    """The memory after a step."""
    match decision:
        case Apply():
            losses = () if limits.spike_factor is None else (*memory.losses, loss)[-limits.window :]
            return Memory(losses, 0)
        case Rescale():
            return memory
        case Skip() | GiveUp():
            return Memory(memory.losses, memory.skipped_in_a_row + 1)
        case _:
            assert_never(decision)


def farewell(step: int, decision: GiveUp, memory: Memory) -> str:
    """The message that a run ends with. ``memory`` includes the last step."""
    named = ", ".join(decision.row_ids[:_NAMED_ROWS])
    more = f" and {len(decision.row_ids) - _NAMED_ROWS} more" if len(decision.row_ids) > _NAMED_ROWS else ""
    return (
        f"step {step}: {decision.reason}; {memory.skipped_in_a_row} steps in a row could not be applied, as many as guard.stop_after, so "
        f"the run ends. Rows of this step: {named}{more}. Earlier checkpoints are intact: look at these rows, or lower schedule.peak_lr"
    )
