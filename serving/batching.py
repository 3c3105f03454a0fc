"""Which waiting rows run together: a pure function of (queue, now, limits). Knows no threads, no model, no HTTP.

The oldest row is always in the batch, so a row that has *k* rows before it runs within *k + 1* batches. Around it come, out of the oldest
few, the rows that waste least padding: sorted by length, a contiguous stretch that holds the oldest row. Cost is padded cost, rows times
the longest row, because that is what a forward pass computes.

Read next: ``batcher.py``, which obeys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A forward pass costs this much besides its tokens, so that two half batches are dearer than a whole one.
_PASS_COST_TOKENS = 64
# Rows beyond the oldest ``8 * max_batch_rows`` never overtake; it also bounds the planner's own time.
_LOOKAHEAD_BATCHES = 8


@dataclass(frozen=True)
class Limits:
    """What one forward pass may hold."""

    max_batch_tokens: int
    max_batch_rows: int
    max_wait_s: float = 0.0


@dataclass(frozen=True)
class Waiting:
    """One row in the queue."""

    tokens: int
    arrived_s: float
    deadline_s: float | None = None
    """On the clock of ``arrived_s``; from then on nobody waits for the answer."""
    is_cancelled: bool = False


@dataclass(frozen=True)
class Plan:
    """The decision: positions in the queue. ``drop`` leave unread, ``take`` run now, the others stay."""

    drop: tuple[int, ...] = ()
    take: tuple[int, ...] = ()
    wait_s: float | None = None
    """Look again after this long; None when something is taken, or when nothing waits."""


def plan(queue: Sequence[Waiting], now_s: float, limits: Limits) -> Plan:
    """Choose the next batch. Deterministic: same queue, same time, same plan.

    Args:
        queue: Rows in order of arrival.
        now_s: The time, on the clock of ``Waiting.arrived_s``.
        limits: What a batch may hold. A row longer than the token budget runs alone.
    """
    drop = tuple(index for index, row in enumerate(queue) if row.is_cancelled or _is_expired(row, now_s))
    dropped = set(drop)
    lookahead = _LOOKAHEAD_BATCHES * limits.max_batch_rows
    live: list[int] = []
    for index in range(len(queue)):
        if index not in dropped:
            live.append(index)
            if len(live) == lookahead:
                break
    if not live:
        return Plan(drop=drop)
    ready_s = queue[live[0]].arrived_s + limits.max_wait_s
    if now_s < ready_s and not _fills_a_batch([queue[index].tokens for index in live], limits):
        return Plan(drop=drop, wait_s=ready_s - now_s)
    return Plan(drop=drop, take=_choose([(queue[index].tokens, index) for index in live], limits))


def padded_cost(lengths: Sequence[int]) -> int:
    """Tokens that a forward pass over rows of these lengths computes."""
    return len(lengths) * max(lengths, default=0)


def _is_expired(row: Waiting, now_s: float) -> bool:
    return row.deadline_s is not None and row.deadline_s <= now_s


def _fills_a_batch(lengths: Sequence[int], limits: Limits) -> bool:
    return len(lengths) >= limits.max_batch_rows or padded_cost(lengths) >= limits.max_batch_tokens


def _choose(rows: Sequence[tuple[int, int]], limits: Limits) -> tuple[int, ...]:
    """The stretch of rows, sorted by length and holding the oldest one, with the most useful tokens per token computed."""
    oldest = rows[0]
    by_length = sorted(rows)
    place = by_length.index(oldest)
    sums = [0]
    for tokens, _ in by_length:
        sums.append(sums[-1] + tokens)
    best: tuple[float, int, int] | None = None
    for last in range(place, len(by_length)):
        longest = max(1, by_length[last][0])
        fitting = min(limits.max_batch_rows, limits.max_batch_tokens // longest)
        first = max(0, last + 1 - fitting)
        if first > place:
            break  # longer rows leave even less room: the oldest row would not fit any more
        useful = sums[last + 1] - sums[first]
        worth = useful / (_PASS_COST_TOKENS + (last + 1 - first) * longest)
        if best is None or worth > best[0]:
            best = (worth, first, last)
    if best is None:  # the oldest row alone is over the budget
        return (oldest[1],)
    return tuple(sorted(index for _, index in by_length[best[1] : best[2] + 1]))
