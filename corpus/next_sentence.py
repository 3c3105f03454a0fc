"""Pairs for next-sentence prediction (Devlin et al. 2019, section 3.1), made from packed rows when a step needs them. Pure.

A document ``[CLS] x [SEP]`` becomes ``[CLS] a [SEP] b [SEP]`` of the same length: ``a`` and ``b`` are its first and second half, or, every
other time, ``b`` is a stretch of another row. Where it is cut, and which row it is, depend on (seed, epoch, row) and on nothing else, so
the batches of a step are the same on any number of workers. Shapes: T tokens of a row, D documents in it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]

FEWEST_TOKENS = 12
"""Documents with fewer stay as they are: halves of three tokens say nothing."""
NO_PAIR = -1
_WORD = 2**64
_STREAM = 1
"""Of the random numbers; masks draw from 0."""


class Paired(NamedTuple):
    """A row of documents in two halves each."""

    ids: Ids
    """(T,) token ids."""
    types: npt.NDArray[np.int8]
    """(T,) 0 in first halves, 1 in second ones."""
    is_other: npt.NDArray[np.int64]
    """(D,) 0 where the second half is the document's own, 1 where it is another's (BERT's order of the two classes); ``NO_PAIR`` where
    there is no pair."""


def paired_row(
    ids: Ids, starts: npt.NDArray[np.int32], *, row: int, rows: int, words_of: Callable[[int], Ids], separator: int, seed: int, epoch: int
) -> Paired:
    """Turn each document of a row into a pair of halves.

    Args:
        ids: (T,) token ids; not changed.
        starts: (D,) where each document begins.
        row: The row's number.
        rows: Rows that another half can come from.
        words_of: A row's token ids without special tokens.
        separator: Id of ``[SEP]``.
        seed: Of the run.
        epoch: In which the row is visited.
    """
    key = np.array([seed % _WORD, _STREAM], dtype=np.uint64)
    counter = np.array([0, 0, row % _WORD, epoch % _WORD], dtype=np.uint64)
    draws = np.asarray(np.random.Philox(key=key, counter=counter).random_raw(4 * len(starts))).reshape(-1, 4)
    made, types = np.array(ids, dtype=np.int32), np.zeros(len(ids), dtype=np.int8)
    is_other = np.full(len(starts), NO_PAIR, dtype=np.int64)
    for document, (start, end) in enumerate(pairwise([*starts.tolist(), len(ids)])):
        words = end - start - 2
        if words + 2 < FEWEST_TOKENS:
            continue
        place, coin, chosen, offset = (int(draw) for draw in draws[document])
        cut = start + 1 + words // 4 + place % (words // 2 + 1)
        # The second separator takes the place of the last word.
        made[cut] = separator
        made[cut + 1 : end - 1] = ids[cut : end - 2]
        types[cut + 1 : end] = 1
        is_other[document] = coin % 2
        if coin % 2:
            made[cut + 1 : end - 1] = _stretch(words_of(_another(row, rows, chosen)), end - 2 - cut, offset)
    return Paired(made, types, is_other)


def _another(row: int, rows: int, chosen: int) -> int:
    """A row that is not ``row``, if there is one."""
    return (row + 1 + chosen % (rows - 1)) % rows if rows > 1 else row


def _stretch(words: Ids, size: int, offset: int) -> Ids:
    """``size`` words in a row, begun anywhere, over and over where there are fewer."""
    if not len(words):
        return np.zeros(size, dtype=np.int32)
    return words[(offset % len(words) + np.arange(size)) % len(words)]
