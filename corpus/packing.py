"""Packing: which documents share a row. Pure, on lengths alone; tokens are put in place by ``fill_rows``.

Whole documents first, best fit decreasing: each goes into the fullest row that still has room. A document longer than a row is cut
into row-sized pieces and a rest. Every piece is framed by ``[CLS] … [SEP]`` and its start is kept, so that attention and positions
stay within it. "Fewer Truncations Improve Language Modeling" (Ding et al. 2024) measures why documents are not cut at row ends.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corpus.shards import Origins, PackedRow

# [CLS] and [SEP] around every piece.
FRAME = 2

# Places in a row below which a gap stays a gap: a frame around fewer than eight tokens is not worth computing.
SMALLEST_FILLING = 8 + FRAME

Documents = Sequence[npt.NDArray[np.int32]] | Mapping[int, npt.NDArray[np.int32]]


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


def origins(rows: Sequence[Sequence[Piece]]) -> list[Origins]:
    """Where each piece of each row comes from."""
    return [Origins(np.array([p.document for p in row], np.int64), np.array([p.start for p in row], np.int64)) for row in rows]


def fill_share(rows: Sequence[Sequence[Piece]], row_length: int) -> float:
    """Share of places that hold a token, over all rows; 0 when there are none."""
    return sum(piece.size for row in rows for piece in row) / (len(rows) * row_length) if rows else 0.0


def _place(piece: Piece) -> tuple[int, int]:
    return piece.document, piece.start
