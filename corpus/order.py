"""The order in which training visits rows, as a function: no stream, no state, nothing to save but the step number.

``order(seed, epoch, rows)`` is a keyed permutation of ``range(rows)`` evaluated by index, in memory that does not grow with ``rows``.
A ``RowOrder`` says which row is visited at each position; ``UniformOrder`` is the plain one, weighted mixes and curricula are in
``mixture.py``. Which positions a step holds is ``positions.py``; ``rows_of_step`` is both for a constant batch. None of them knows how
many workers there are, so no failure and no resize can change the order. Masks are the other half of this promise: ``masks.py``.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

# A BLAKE2b digest (64 bytes) holds the keys of eight rounds.
_ROUNDS = 8


@dataclass(frozen=True)
class Bijection:
    """A permutation of ``range(rows)``: an alternating Feistel network over a grid a little larger than ``rows``, walked back into range.

    The grid has ``left * right`` cells, ``left = ceil(sqrt(rows))``, ``right = ceil(rows / left)``: at most ``left - 1`` cells are
    surplus, so almost no index is walked twice (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """

    rows: int
    keys: tuple[int, ...]
    """One 64-bit key per round."""

    def __call__(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Where ``indices`` go.

        Args:
            indices: Any shape, integers in ``range(rows)``.

        Returns:
            The same shape, int64, in ``range(rows)``.

        Raises:
            IndexError: An index is outside ``range(rows)``.
        """
        asked = np.asarray(indices, dtype=np.int64)
        if asked.size and (asked.min() < 0 or asked.max() >= self.rows):
            raise IndexError(f"order holds indices 0 to {self.rows - 1}; asked for {asked.min()} to {asked.max()}")
        cells = asked.astype(np.uint64).ravel()
        left = math.isqrt(self.rows - 1) + 1
        right = -(-self.rows // left)
        found = self._encrypt(cells, left, right)
        while (outside := np.flatnonzero(found >= self.rows)).size:
            found[outside] = self._encrypt(found[outside], left, right)
        return found.astype(np.int64).reshape(asked.shape)

    def _encrypt(self, cells: npt.NDArray[np.uint64], left: int, right: int) -> npt.NDArray[np.uint64]:
        width, height = np.uint64(left), np.uint64(right)
        column, line = cells % width, cells // width
        for number, key in enumerate(self.keys):
            if number % 2:
                line = (line + _mix(column, key) % height) % height
            else:
                column = (column + _mix(line, key) % width) % width
        return line * width + column


class StepRows(NamedTuple):
    """The rows of one step, in order. G = rows per step."""

    epochs: npt.NDArray[np.int64]
    """(G,) the epoch in which each row is visited, in a weighted mix its source's pass; no row has the same number twice, and masks are
    keyed by it."""
    rows: npt.NDArray[np.int64]
    """(G,) row numbers."""
    step: int | None = None
    """The step that holds them; None for rows that no step holds, such as those of an evaluation."""


class RowOrder(Protocol):
    """Which row is visited at each position of a run. Positions count rows from the run's first, through all epochs."""

    @property
    def rows(self) -> int:
        """Rows in the data: row numbers are below it."""

    @property
    def epoch_rows(self) -> int:
        """Positions in one epoch."""

    def rows_at(self, positions: npt.ArrayLike) -> StepRows:
        """The rows at ``positions``: (G,) integers from 0, in any order. Each is found on its own, whatever else is asked for."""


@dataclass(frozen=True)
class UniformOrder:
    """Every row exactly once an epoch, each epoch in an order of its own."""

    rows: int
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.rows <= 2**62:
            raise ValueError(f"rows is {self.rows}; an order needs between 1 and 2**62 rows")

    @property
    def epoch_rows(self) -> int:
        """As many as there are rows."""
        return self.rows

    def rows_at(self, positions: npt.ArrayLike) -> StepRows:
        """The rows at ``positions``, (G,) integers from 0."""
        epochs, indices = np.divmod(checked_positions(positions), self.rows)
        return StepRows(epochs, visited(self.seed, epochs, indices, rows=self.rows))


def order(seed: int, epoch: int, rows: int, *, part: str = "") -> Bijection:
    """The permutation of ``range(rows)`` for one epoch. Constant time and memory.

    Args:
        seed: Of the order.
        epoch: Or the pass.
        rows: How many there are to permute.
        part: Name of a part of the data; parts of equal size get permutations of their own.

    Raises:
        ValueError: ``rows`` is not between 1 and 2**62.
    """
    if not 0 < rows <= 2**62:
        raise ValueError(f"rows is {rows}; an order needs between 1 and 2**62 rows")
    text = f"raybert order {seed} {epoch} {rows}{' ' if part else ''}{part}".encode()
    digest = hashlib.blake2b(text, digest_size=8 * _ROUNDS).digest()
    return Bijection(rows, tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(_ROUNDS)))


def visited(
    seed: int, epochs: npt.NDArray[np.int64], indices: npt.NDArray[np.int64], *, rows: int, part: str = ""
) -> npt.NDArray[np.int64]:
    """Where the orders of several epochs lead: for each place, ``order(seed, epoch, rows)(index)``.

    Args:
        seed: Of the order.
        epochs: (G,) epoch of each place.
        indices: (G,) index within the epoch, in ``range(rows)``.
        rows: Rows that the order permutes.
        part: As in ``order``.

    Returns:
        (G,) in ``range(rows)``.
    """
    found = np.empty(len(indices), dtype=np.int64)
    if rows == 1:
        # Nothing to permute, and a source of one row can have thousands of passes in a step.
        found[:] = 0
        return found
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        found[inside] = order(seed, int(epoch), rows, part=part)(indices[inside])
    return found


def checked_positions(positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """``positions`` as int64.

    Raises:
        IndexError: One of them is negative.
    """
    asked = np.asarray(positions, dtype=np.int64)
    if asked.size and asked.min() < 0:
        raise IndexError(f"positions count from 0; asked for {asked.min()}")
    return asked


def rows_of_step(step: int, *, rows_per_step: int, rows: int, seed: int) -> StepRows:
    """The rows of step ``step`` (the first is 0), each epoch visiting every row exactly once; a step may cross epochs.

    The plain case of ``positions.step_rows``: a uniform order and a constant batch.

    Args:
        step: The step's number.
        rows_per_step: G, the global batch: rows of one optimiser step over all workers.
        rows: Rows in the data.
        seed: Of the order.
    """
    return UniformOrder(rows, seed).rows_at(np.arange(step * rows_per_step, (step + 1) * rows_per_step, dtype=np.int64))


def _mix(values: npt.NDArray[np.uint64], key: int) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014) of ``values`` under a key; wraps modulo 2**64 by intent."""
    mixed = (values ^ np.uint64(key)) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
