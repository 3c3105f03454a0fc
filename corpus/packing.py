"""Packing: which documents share a row. Pure, on lengths alone; tokens are put in place by ``fill_rows``.

Whole documents first, best fit decreasing: each goes into the fullest row that still has room. A document longer than a row is cut
into row-sized pieces and a rest. Every piece is framed by ``[CLS] … [SEP]`` and its start is kept, so that attention and positions
stay within it. "Fewer Truncations Improve Language Modeling" (Ding et al. 2024) measures why documents are not cut at row ends.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corpus.shards import PackedRow

# [CLS] and [SEP] around every piece.
FRAME = 2


@dataclass(frozen=True)
class Piece:
    """Tokens ``start`` to ``stop`` of one document."""

    document: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Places that it takes in a row, its frame counted."""
        return self.stop - self.start + FRAME


def pack(lengths: Sequence[int], row_length: int) -> list[list[Piece]]:
    """Decide which pieces share a row.

    Args:
        lengths: Tokens of each document, special tokens not counted; documents of length 0 take no place.
        row_length: Places in a row.

    Returns:
        Rows of pieces, each row in document order; rows are ordered by their first document. Equal lengths give equal rows.
    """
    pieces = [piece for document, length in enumerate(lengths) for piece in _pieces(document, length, row_length - FRAME)]
    rows: list[list[Piece]] = []
    open_rows: dict[int, list[int]] = {}  # places left -> rows with that many left
    rooms: list[int] = []  # the keys of open_rows, ascending
    for piece in sorted(pieces, key=lambda piece: (-piece.size, piece.document, piece.start)):
        at = bisect_left(rooms, piece.size)
        if at == len(rooms):
            row, left = len(rows), row_length - piece.size
            rows.append([])
        else:
            room = rooms[at]
            row, left = open_rows[room].pop(), room - piece.size
            if not open_rows[room]:
                del open_rows[room], rooms[at]
        rows[row].append(piece)
        if left > FRAME:
            if left not in open_rows:
                open_rows[left] = []
                insort(rooms, left)
            open_rows[left].append(row)
    return sorted((sorted(row, key=_place) for row in rows), key=lambda row: _place(row[0]))


def fill_rows(rows: Sequence[Sequence[Piece]], documents: Sequence[npt.NDArray[np.int32]], *, cls_id: int, sep_id: int) -> list[PackedRow]:
    """Put tokens in place.

    Args:
        rows: From ``pack``.
        documents: The documents' token ids, each (T,) int32 without special tokens.
        cls_id: Opens each piece.
        sep_id: Closes each piece.
    """
    filled = []
    for row in rows:
        sizes = np.array([piece.size for piece in row])
        ends = np.cumsum(sizes)
        ids = np.empty(ends[-1], dtype=np.int32)
        for piece, end in zip(row, ends, strict=True):
            ids[end - piece.size] = cls_id
            ids[end - piece.size + 1 : end - 1] = documents[piece.document][piece.start : piece.stop]
            ids[end - 1] = sep_id
        filled.append(PackedRow(ids, (ends - sizes).astype(np.int32)))
    return filled


def fill_share(rows: Sequence[Sequence[Piece]], row_length: int) -> float:
    """Share of places that hold a token, over all rows; 0 when there are none."""
    return sum(piece.size for row in rows for piece in row) / (len(rows) * row_length) if rows else 0.0


def _pieces(document: int, length: int, room: int) -> list[Piece]:
    return [Piece(document, start, min(start + room, length)) for start in range(0, length, room)]


def _place(piece: Piece) -> tuple[int, int]:
    return piece.document, piece.start
