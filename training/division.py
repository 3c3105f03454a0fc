"""How one step's rows are divided: among ranks, and into micro-batches. Pure; any number of rows over any number of ranks.

Every rank gets the same number of micro-batches, because ZeRO 2 and 3 communicate at each backward pass: a rank with fewer would leave the
others waiting for ever. Missing ones are filled with a copy that carries no weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MicroBatch:
    """Positions (within the step's G rows) that one rank computes at once; ``weight`` 0 marks a filler."""

    members: tuple[int, ...]
    weight: float = 1.0


def rows_of_rank(lengths: Sequence[int], rank: int, world_size: int) -> list[int]:
    """The members of a step that ``rank`` computes, longest first.

    Rows are dealt out by length in a snake (0, 1, 2, 2, 1, 0, …), so that ranks get near-equal work; ties keep the step's order.

    Args:
        lengths: Tokens of each of the step's G rows.
        rank: 0 ≤ rank < world_size.
        world_size: Ranks; need not divide G.
    """
    by_length = sorted(range(len(lengths)), key=lambda member: (-lengths[member], member))
    mine = []
    for place, member in enumerate(by_length):
        turn, seat = divmod(place, world_size)
        if (seat if turn % 2 == 0 else world_size - 1 - seat) == rank:
            mine.append(member)
    return mine


def microbatches_of_rank(lengths: Sequence[int], rank: int, world_size: int, rows_per_microbatch: int) -> list[MicroBatch]:
    """The micro-batches of ``rank``: rows of like length together, the same number on every rank."""
    most = math.ceil(len(lengths) / world_size)
    count = max(1, math.ceil(most / rows_per_microbatch))
    mine = rows_of_rank(lengths, rank, world_size)
    size = math.ceil(len(mine) / count) if mine else 0
    batches = [MicroBatch(tuple(mine[start : start + size])) for start in range(0, len(mine), max(1, size))]
    shortest = min(range(len(lengths)), key=lambda member: (lengths[member], member))
    return batches + [MicroBatch((shortest,), 0.0)] * (count - len(batches))
