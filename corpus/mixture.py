"""Orders over data with parts: weighted mixes of sources, and curricula that begin with short rows. By index, without tables or state.

Parts are consecutive ranges of row numbers: part i holds the rows that follow those of part i - 1. Each part has permutations of its own
(``order.py``); what is decided here is which part a position belongs to. Knows nothing of files or batches.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from corpus.order import StepRows, checked_positions, visited

# Up to here a product of two counts over a third is found exactly from a float's guess; see _rounded_share.
_MOST_ROWS = 2**50


@dataclass(frozen=True)
class Source:
    """A part of a weighted mix."""

    name: str
    """Keys the source's order: renaming it reorders it, adding another source does not."""
    rows: int
    """Rows it holds."""
    quota: int
    """Rows of it in one epoch; more than ``rows`` repeats them, fewer spreads them over several epochs."""


@dataclass(frozen=True)
class WeightedOrder:
    """Each epoch holds every source's quota exactly; a source's rows are all visited once before any is visited again.

    A source is passed over again and again, each pass a permutation of its own, and passes run on from epoch to epoch. ``StepRows.epochs``
    holds the pass, so that a row seen twice gets other masks.

    Sources interleave evenly. In every prefix of an epoch a source is less than 1 row off its share with two or three sources (at most 1/2
    with two), and less than 1.68 rows with any number of them. Positions are split in two again and again along a Huffman tree of the
    quotas: of the first m positions of a node, round(m * a / (a + b)) go left. A split adds at most 1/2, and a child inherits its share of
    its parent's error, so a leaf of quota q is at most 1/2 * sum(q / quota of node) off, over the nodes from the leaf up to below the
    root. In a Huffman tree a node's grandparent is at least as large as the node and its parent together, so these terms shrink at least
    like one over the Fibonacci numbers, whose sum is 3.36. Less than 1 for any number of sources is possible (Tijdeman, "The chairman
    assignment problem", 1980), but no way is known here to find it by index, without going through the positions one after the other.
    """

    sources: tuple[Source, ...]
    seed: int

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"sources are named {', '.join(names)}; each needs a name of its own")
        for source in self.sources:
            if source.rows < 0 or source.quota < 0 or (source.quota and not source.rows):
                raise ValueError(
                    f"source {source.name} has {source.rows} rows and a quota of {source.quota}; a quota needs rows to fill it"
                )
        if not 0 < self.epoch_rows <= _MOST_ROWS:
            raise ValueError(f"the quotas add up to {self.epoch_rows}; an epoch holds between 1 and 2**50 rows")

    @property
    def rows(self) -> int:
        """Rows of all sources."""
        return sum(source.rows for source in self.sources)

    @cached_property
    def epoch_rows(self) -> int:
        """The sum of the quotas."""
        return sum(source.quota for source in self.sources)

    def rows_at(self, positions: npt.ArrayLike) -> StepRows:
        """The rows at ``positions``, (G,) integers from 0, and each row's pass."""
        epochs, places = np.divmod(checked_positions(positions), self.epoch_rows)
        passes, rows = np.empty_like(places), np.empty_like(places)
        begins = [0, *accumulate(source.rows for source in self.sources)]
        for number, inside, turns in _interleaved(self._tree, np.arange(len(places)), places):
            source = self.sources[number]
            passes[inside], indices = np.divmod(epochs[inside] * source.quota + turns, source.rows)
            rows[inside] = begins[number] + visited(self.seed, passes[inside], indices, rows=source.rows, part=f"source {source.name}")
        return StepRows(passes, rows)

    def sources_at(self, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The number of the source at each of ``positions``, (G,)."""
        places = checked_positions(positions) % self.epoch_rows
        found = np.empty_like(places)
        for number, inside, _ in _interleaved(self._tree, np.arange(len(places)), places):
            found[inside] = number
        return found

    @cached_property
    def _tree(self) -> _Node:
        return _huffman([source.quota for source in self.sources])


@dataclass(frozen=True)
class CurriculumOrder:
    """Every row exactly once an epoch, part after part: the shortest rows first, if part 0 holds the shortest."""

    buckets: tuple[int, ...]
    """Rows of each part, in the order in which an epoch goes through them; within a part the order is random."""
    seed: int

    def __post_init__(self) -> None:
        if min(self.buckets, default=0) < 0 or not 0 < self.rows <= 2**62:
            raise ValueError(f"buckets hold {list(self.buckets)} rows; none may be negative and together they need 1 to 2**62")

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(self.buckets)

    @property
    def epoch_rows(self) -> int:
        """As many as there are rows."""
        return self.rows

    def rows_at(self, positions: npt.ArrayLike) -> StepRows:
        """The rows at ``positions``, (G,) integers from 0."""
        epochs, places = np.divmod(checked_positions(positions), self.rows)
        ends = np.cumsum(np.array(self.buckets, dtype=np.int64))
        numbers = np.searchsorted(ends, places, side="right")
        rows = np.empty_like(places)
        for number in np.unique(numbers):
            inside, size = numbers == number, self.buckets[number]
            begin = ends[number] - size
            rows[inside] = begin + visited(self.seed, epochs[inside], places[inside] - begin, rows=size, part=f"bucket {number}")
        return StepRows(epochs, rows)


def quotas(weights: Sequence[float], epoch_rows: int) -> tuple[int, ...]:
    """Whole quotas for an epoch of ``epoch_rows``, each less than 1 off its share, by largest remainder (Hamilton's method).

    Args:
        weights: Of the sources, in any unit.
        epoch_rows: What the quotas add up to.
    """
    if min(weights, default=0) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights are {list(weights)}; none may be negative and one must be positive")
    # Fractions, so that a float's rounding cannot decide who gets the last row.
    total = sum(map(Fraction, weights), Fraction(0))
    shares = [Fraction(weight) * epoch_rows / total for weight in weights]
    whole = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda number: (whole[number] - shares[number], number))
    for number in by_remainder[: epoch_rows - sum(whole)]:
        whole[number] += 1
    return tuple(whole)


@dataclass(frozen=True)
class _Leaf:
    quota: int
    number: int


@dataclass(frozen=True)
class _Split:
    quota: int
    left: _Node
    right: _Node


_Node = _Leaf | _Split
_Part = tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _huffman(quotas: Sequence[int]) -> _Node:
    """The Huffman tree of the sources with a quota; ties go to the node that was there first."""
    heap: list[tuple[int, int, _Node]] = [(quota, number, _Leaf(quota, number)) for number, quota in enumerate(quotas) if quota]
    heapq.heapify(heap)
    made = len(quotas)
    while len(heap) > 1:
        (small, _, left), (large, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (small + large, made, _Split(small + large, left, right)))
        made += 1
    return heap[0][2]


def _interleaved(node: _Node, inside: npt.NDArray[np.int64], turns: npt.NDArray[np.int64]) -> list[_Part]:
    """Deal the positions of ``node`` out to its leaves.

    Args:
        node: Of the tree.
        inside: Indices, into what was asked for, of the positions that belong to ``node``.
        turns: How many of the epoch's earlier positions belong to ``node``, for each of these.

    Returns:
        For each leaf that has any: its source's number, and the two arrays for it.
    """
    if not len(inside):
        return []
    if isinstance(node, _Leaf):
        return [(node.number, inside, turns)]
    before = _rounded_share(turns, node.left.quota, node.quota)
    is_left = _rounded_share(turns + 1, node.left.quota, node.quota) > before
    return [
        *_interleaved(node.left, inside[is_left], before[is_left]),
        *_interleaved(node.right, inside[~is_left], (turns - before)[~is_left]),
    ]


def _rounded_share(counts: npt.NDArray[np.int64], part: int, whole: int) -> npt.NDArray[np.int64]:
    """round(counts * part / whole), halves up, exactly; 0 <= counts, part <= whole <= 2**50.

    The product can exceed 64 bits. A float's guess of the quotient is at most 2 off, so the remainder is small, and arithmetic modulo 2**64
    gives it exactly.
    """
    guess = (counts * (part / whole)).astype(np.int64)
    remainder = counts * np.int64(part) - guess * np.int64(whole)
    found: npt.NDArray[np.int64] = guess + (2 * remainder + whole) // (2 * whole)
    return found
