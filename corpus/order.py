"""The order in which training visits rows, as a function: no stream, no state, nothing to save but the step number.

``order(seed, epoch, rows)`` is a keyed permutation of ``range(rows)`` evaluated by index, in memory that does not grow with ``rows``.
``rows_of_step`` says which rows a step holds. Neither knows how many workers there are, so no failure and no resize can change the
order. Masks are the other half of this promise: ``masks.py``.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

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
    """(G,) the epoch in which each row is visited; masks are keyed by it."""
    rows: npt.NDArray[np.int64]
    """(G,) row numbers."""


def order(seed: int, epoch: int, rows: int) -> Bijection:
    """The permutation of ``range(rows)`` for one epoch. Constant time and memory.

    Raises:
        ValueError: ``rows`` is not between 1 and 2**62.
    """
    if not 0 < rows <= 2**62:
        raise ValueError(f"rows is {rows}; an order needs between 1 and 2**62 rows")
    text = f"raybert order {seed} {epoch} {rows}".encode()
    digest = hashlib.blake2b(text, digest_size=8 * _ROUNDS).digest()
    return Bijection(rows, tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(_ROUNDS)))


def rows_of_step(step: int, *, rows_per_step: int, rows: int, seed: int) -> StepRows:
    """The rows of step ``step`` (the first is 0), each epoch visiting every row exactly once; a step may cross epochs.

    Args:
        step: The step's number.
        rows_per_step: G, the global batch: rows of one optimiser step over all workers.
        rows: Rows in the data.
        seed: Of the order.
    """
    positions = np.arange(step * rows_per_step, (step + 1) * rows_per_step, dtype=np.int64)
    epochs, indices = np.divmod(positions, rows)
    visited = np.empty(rows_per_step, dtype=np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        inside = epochs == epoch
        visited[inside] = order(seed, epoch, rows)(indices[inside])
    return StepRows(epochs, visited)


def _mix(values: npt.NDArray[np.uint64], key: int) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014) of ``values`` under a key; wraps modulo 2**64 by intent."""
    mixed = (values ^ np.uint64(key)) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
