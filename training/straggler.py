"""Which rank of a gang is slower than the others, step after step, so that all wait for it. Pure.

Rows are dealt out by work, so ranks on like hardware take alike for a forward pass, in which at ZeRO 0 to 2 nobody waits for anybody.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

BLOCK = 10
"""Steps that are looked at together: within so many, a rank may well be slow for once."""
IN_A_ROW = 4
"""Blocks."""
FACTOR = 1.5


@dataclass(frozen=True)
class Straggler:
    """A rank that has been slow for some time."""

    rank: int
    seconds: float
    """Of its forward passes of a step, in the mean of the last block."""
    others: float
    """The median of the others' means."""


class Paces:
    """Takes what each rank took, a step at a time; tells of a rank once."""

    def __init__(self, world_size: int) -> None:
        self._sums = [0.0] * world_size
        self._steps = 0
        self._slowest: int | None = None
        self._blocks = 0
        self._told: set[int] = set()

    def add(self, seconds: Sequence[float]) -> Straggler | None:
        """The straggler, once that is certain.

        Args:
            seconds: By rank.
        """
        self._sums = [before + now for before, now in zip(self._sums, seconds, strict=True)]
        self._steps += 1
        if self._steps < BLOCK or len(seconds) < 2:
            return None
        means = [total / self._steps for total in self._sums]
        self._sums, self._steps = [0.0] * len(seconds), 0
        slowest = max(range(len(means)), key=lambda rank: means[rank])
        others = statistics.median(mean for rank, mean in enumerate(means) if rank != slowest)
        if not others or means[slowest] < FACTOR * others:  # ranks without rows wait anyway
            self._slowest, self._blocks = None, 0
            return None
        self._blocks = self._blocks + 1 if slowest == self._slowest else 1
        self._slowest = slowest
        if self._blocks < IN_A_ROW or slowest in self._told:
            return None
        self._told.add(slowest)
        return Straggler(slowest, means[slowest], others)
