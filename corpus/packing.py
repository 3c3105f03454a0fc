"""Packing: which documents share a row. Pure, on lengths alone; tokens are put in place by ``fill_rows``.

Whole documents first, best fit decreasing: each goes into the fullest row that still has room. A document longer than a row is cut
into row-sized pieces and a rest. Every piece is framed by ``[CLS] … [SEP]`` and its start is kept, so that attention and positions
stay within it. "Fewer Truncations Improve Language Modeling" (Ding et al. 2024) measures why documents are not cut at row ends.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from corpus.shards import Origins, PackedRow

# [CLS] and [SEP] around every piece.
FRAME = 2

# Places in a row below which a gap stays a gap: a frame around fewer than eight tokens is not worth computing.
SMALLEST_FILLING = 8 + FRAME

Documents = Sequence[npt.NDArray[np.int32]] | Mapping[int, npt.NDArray[np.int32]]


class Piece(NamedTuple):
    """Tokens ``start`` to ``stop`` of one document."""

    document: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Places that it takes in a row, its frame counted."""
        return self.stop - self.start + FRAME


def pack(lengths: Sequence[int], row_length: int) -> list[list[Piece]]:
    """Cut documents plainly and decide which pieces share a row.

    Args:
        lengths: Tokens of each document, special tokens not counted; documents of length 0 take no place.
        row_length: Places in a row.

    Returns:
        See ``pack_pieces``.
    """
    pieces = [Piece(number, *span) for number, length in enumerate(lengths) for span in cut(length, row_length - FRAME)]
    return pack_pieces(pieces, row_length)


def cut(length: int, room: int, ends: npt.NDArray[np.int64] | None = None, overlap: int = 0) -> list[tuple[int, int]]:
    """Where a document is cut so that each piece fits.

    Args:
        length: Its tokens.
        room: Most tokens in a piece.
        ends: Ascending positions behind which a sentence ends; a cut is made behind the last one that leaves its piece at least half full
            and the row either full or with room for another piece worth having. None cuts when the piece is full.
        overlap: Tokens that a piece repeats of the one before it; less than half of ``room``.
    """
    spans, start = [], 0
    while start < length:
        stop = min(start + room, length)
        if stop < length and ends is not None:
            last = int(np.searchsorted(ends, stop, side="right")) - 1
            if last >= 0 and ends[last] != stop:
                last = int(np.searchsorted(ends, stop - SMALLEST_FILLING, side="right")) - 1
            if last >= 0 and ends[last] >= start + max(room // 2, overlap + 1):
                stop = int(ends[last])
        spans.append((start, stop))
        if stop == length:
            break
        start = stop - overlap
    return spans


def pack_pieces(pieces: Sequence[Piece], row_length: int) -> list[list[Piece]]:
    """Decide which pieces share a row: best fit decreasing.

    Returns:
        Rows of pieces, each row in document order; rows are ordered by their first document. Equal pieces give equal rows.
    """
    rows: list[list[Piece]] = []
    open_rows: dict[int, list[int]] = {}  # places left -> rows with that many left
    rooms: list[int] = []  # the keys of open_rows, ascending
    # Sorted by size, largest first, then by place.
    for piece in sorted(sorted(pieces), key=_span, reverse=True):
        size = piece.size
        at = bisect_left(rooms, size)
        if at == len(rooms):
            row, left = len(rows), row_length - size
            rows.append([])
        else:
            room = rooms[at]
            row, left = open_rows[room].pop(), room - size
            if not open_rows[room]:
                del open_rows[room], rooms[at]
        rows[row].append(piece)
        if left > FRAME:
            if left not in open_rows:
                open_rows[left] = []
                insort(rooms, left)
            open_rows[left].append(row)
    for inside in rows:
        inside.sort()
    return sorted(rows)


def fill_gaps(rows: Sequence[list[Piece]], donors: Sequence[tuple[int, int]], row_length: int) -> list[Piece]:
    """Put consecutive pieces of some documents into the gaps of rows, each as long as its gap.

    Args:
        rows: Changed in place.
        donors: (document, tokens), given from the first to the last token, one document after the other.
        row_length: Places in a row.

    Returns:
        What is left of the donors when every gap is filled, cut plainly.
    """
    waiting = iter(donors)
    document, stop = next(waiting, (-1, 0))
    start = 0
    for row in rows:
        gap = row_length - sum(piece.size for piece in row)
        while gap >= SMALLEST_FILLING and document >= 0:
            end = min(start + gap - FRAME, stop)
            row.append(Piece(document, start, end))
            gap, start = gap - row[-1].size, end
            if start == stop:
                document, stop = next(waiting, (-1, 0))
                start = 0
    rest = [(document, start, stop)] if document >= 0 else []
    rest += [(number, 0, length) for number, length in waiting]
    return [Piece(number, first + a, first + b) for number, first, last in rest for a, b in cut(last - first, row_length - FRAME)]


def fill_rows(rows: Sequence[Sequence[Piece]], documents: Documents, *, cls_id: int, sep_id: int) -> list[PackedRow]:
    """Put tokens in place.

    Args:
        rows: From ``pack``.
        documents: By number, the documents' token ids, each (T,) int32 without special tokens.
        cls_id: Opens each piece.
        sep_id: Closes each piece.
    """
    if not rows:
        return []
    # P pieces of all rows, one row behind the other.
    numbers_P, starts_P, stops_P = _columns(rows)
    used, at_P = np.unique(numbers_P, return_inverse=True)
    parts = [documents[number] for number in used.tolist()]
    source, begins = np.concatenate(parts), np.cumsum([0, *map(len, parts)])
    sizes_P = stops_P - starts_P
    ends_P = np.cumsum(sizes_P + FRAME)
    first_P = ends_P - sizes_P - FRAME
    filled = np.empty(ends_P[-1], dtype=np.int32)
    is_token = np.ones(len(filled), dtype=np.bool_)
    is_token[first_P] = is_token[ends_P - 1] = False
    filled[first_P], filled[ends_P - 1] = cls_id, sep_id
    taken_P = np.cumsum(sizes_P) - sizes_P
    filled[is_token] = source[np.repeat(begins[at_P] + starts_P - taken_P, sizes_P) + np.arange(sizes_P.sum())]
    pieces = _bounds(rows)
    places = np.append(first_P, ends_P[-1])[pieces]
    opened = (first_P - np.repeat(places[:-1], np.diff(pieces))).astype(np.int32)
    return list(map(PackedRow, _split(filled, places), _split(opened, pieces)))


def origins(rows: Sequence[Sequence[Piece]]) -> list[Origins]:
    """Where each piece of each row comes from."""
    if not rows:
        return []
    numbers, starts, _ = _columns(rows)
    pieces = _bounds(rows)
    return list(map(Origins, _split(numbers, pieces), _split(starts, pieces)))


def fill_share(rows: Sequence[Sequence[Piece]], row_length: int) -> float:
    """Share of places that hold a token, over all rows; 0 when there are none."""
    return sum(piece.size for row in rows for piece in row) / (len(rows) * row_length) if rows else 0.0


def _span(piece: Piece) -> int:
    return piece.stop - piece.start


def _columns(rows: Sequence[Sequence[Piece]]) -> tuple[npt.NDArray[np.int64], ...]:
    """Documents, starts and stops of the pieces of all rows."""
    flat = chain.from_iterable(chain.from_iterable(rows))
    return tuple(np.fromiter(flat, np.int64).reshape(-1, len(Piece._fields)).T.copy())


def _bounds(rows: Sequence[Sequence[Piece]]) -> npt.NDArray[np.int64]:
    """(R + 1,) row r holds the pieces from ``bounds[r]`` to ``bounds[r + 1]``."""
    return np.cumsum([0, *map(len, rows)])


def _split(values: npt.NDArray[Any], bounds: npt.NDArray[np.int64]) -> list[npt.NDArray[Any]]:
    """Views of ``values`` between consecutive bounds."""
    return [values[a:b] for a, b in pairwise(bounds.tolist())]
