"""How one step's rows are divided: among ranks, and into micro-batches. Pure; any number of rows over any number of ranks.

Every rank gets the same number of micro-batches, because ZeRO 2 and 3 communicate at each backward pass: a rank with fewer would leave the
others waiting for ever. Missing ones are filled with a copy that carries no weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MicroBatch:
    """Positions (within the step's G rows) that one rank computes at once; ``weight`` 0 marks a filler."""

    members: tuple[int, ...]
    weight: float = 1.0


def deal(lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """The members of a step that each rank computes, longest first.

    Rows are dealt out by length in a snake (0, 1, 2, 2, 1, 0, …), so that ranks get near-equal work; ties keep the step's order.

    Args:
        lengths: Tokens of each of the step's G rows.
        world_size: Ranks; need not divide G.
    """
    ranks: list[list[int]] = [[] for _ in range(world_size)]
    for place, member in enumerate(sorted(range(len(lengths)), key=lambda member: (-lengths[member], member))):
        turn, seat = divmod(place, world_size)
        ranks[seat if turn % 2 == 0 else world_size - 1 - seat].append(member)
    return ranks


@dataclass(frozen=True)
class Limits:
    """What one worker computes at once, at most. A row that alone has more tokens is a micro-batch of its own."""

    tokens: int
    rows: int | None = None
    is_padded: bool = False
    """Count each row as long as the longest beside it."""


def microbatches_of_rank(lengths: Sequence[int], rank: int, world_size: int, limits: Limits) -> list[MicroBatch]:
    """The micro-batches of ``rank``: rows of like length together, near-equal work in each, the same number on every rank."""
    return _divided(deal(lengths, world_size), [rank], lengths, limits)[0]


def microbatches_of_ranks(lengths: Sequence[int], world_size: int, limits: Limits) -> list[list[MicroBatch]]:
    """Those of every rank, dealt out once."""
    return _divided(deal(lengths, world_size), range(world_size), lengths, limits)


def _divided(dealt: Sequence[Sequence[int]], wanted: Sequence[int], lengths: Sequence[int], limits: Limits) -> list[list[MicroBatch]]:
    """The micro-batches of the ranks that are wanted, as many for each as the rank that needs most."""
    count = max(1, *(len(_cut(rows, lengths, limits, limits.tokens)) for rows in dealt))
    shortest = min(range(len(lengths)), key=lambda member: (lengths[member], member))
    found = []
    for rows in (dealt[rank] for rank in wanted):
        parts = [MicroBatch(tuple(part)) for part in _cut(rows, lengths, limits, _even(rows, lengths, limits, count))]
        found.append(parts + [MicroBatch((shortest,), 0.0)] * (count - len(parts)))
    return found


def _cut(rows: Sequence[int], lengths: Sequence[int], limits: Limits, tokens: int) -> list[list[int]]:
    """Rows, longest first, into stretches of at most ``tokens`` tokens."""
    parts: list[list[int]] = []
    filled = 0
    for row in rows:
        size = lengths[parts[-1][0]] if parts and limits.is_padded else lengths[row]
        if not parts or filled + size > tokens or (limits.rows is not None and len(parts[-1]) >= limits.rows):
            parts.append([])
            filled, size = 0, lengths[row]
        parts[-1].append(row)
        filled += size
    return parts


def _even(rows: Sequence[int], lengths: Sequence[int], limits: Limits, count: int) -> int:
    """The smallest number of tokens with which ``_cut`` needs at most ``count`` stretches."""
    low, high = 1, limits.tokens
    while low < high:
        middle = (low + high) // 2
        if len(_cut(rows, lengths, limits, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    return low
