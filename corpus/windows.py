"""Packing as documents arrive: a window of a few shards' worth of tokens is packed at a time, so that memory does not grow with the data.

What is in a window depends on the documents alone, not on who read or tokenised them, and so do the shards, byte for byte.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from corpus.config import DataConfig
from corpus.manifest import LengthBucket, PackedRecord
from corpus.packing import FRAME, Piece, cut, fill_gaps, fill_rows, origins, pack_pieces
from corpus.shards import Origins, PackedRow, write_shard
from corpus.tokenizer import TokenizerPlan, sentence_ends

PREFIXES = {"train": "shard", "validation": "validation"}
"""Split to what the names of its shards begin with."""
# Rows packed together; from a few thousand on, more make hardly any row fuller.
_WINDOW_ROWS = 16_384
# Rows filled at once, which takes some eight times their memory.
_FILLED_ROWS = 2_048
# Emptier rows of a bucket before the last are not kept: their documents have better company in longer rows. Of snippets of 27 tokens,
# kept rows of 32, 64 and 128 tokens are 99.0 % full then, without this 74.7 %; a share of 0.99 leaves a quarter less in the first bucket.
_FULL_SHARE = 0.95
# Knuth's multiplicative hash: consecutive numbers come out far apart.
_SCATTER = 2_654_435_761


class PackedWriter:
    """Takes documents in order, writes shards of one split into ``FOLDER/packed``."""

    def __init__(self, folder: Path, prefix: str, config: DataConfig, tokenizer: TokenizerPlan, *, buckets: tuple[int, ...] = ()) -> None:
        """Nothing is written before a shard is full.

        Args:
            folder: Of the build.
            prefix: Of the shards' names.
            config: The recipe.
            tokenizer: Whose ids the documents hold.
            buckets: Row lengths before ``config.sequence_length``, ascending; ``next_bucket`` goes to the next one.
        """
        self._folder, self._prefix, self._config, self._tokenizer = folder, prefix, config, tokenizer
        self._lengths = (*buckets, config.sequence_length)
        self._length, self._room = self._lengths[0], self._lengths[0] - FRAME
        self._is_end = np.zeros(tokenizer.record.vocabulary, dtype=np.bool_)
        if config.cut_at_sentences:
            self._is_end[sentence_ends(tokenizer.serialised)] = True
        self._documents: dict[int, npt.NDArray[np.int32]] = {}
        self._places = 0
        self._rows: list[PackedRow] = []
        self._origins: list[Origins] = []
        self._shards: list[str] = []
        self._sources: dict[str, int] = {}
        self._buckets: list[LengthBucket] = []
        self._left: list[int] = []
        self._written_rows = self._written_tokens = 0

    def add(self, number: int, ids: npt.NDArray[np.int32]) -> None:
        """Take document ``number``; one without tokens takes no place."""
        if not len(ids):
            return
        self._documents[number] = ids
        self._places += len(ids) + FRAME * -(-len(ids) // self._room)
        if self._places >= _WINDOW_ROWS * self._length:
            self._pack()

    def end_source(self, name: str) -> None:
        """The next document is of another source, whose rows begin behind those of ``name``."""
        self._pack()
        self._sources[name] = self._written_rows + len(self._rows) - sum(self._sources.values())

    def next_bucket(self) -> list[int]:
        """Further documents go into rows of the next length, behind all rows so far.

        Returns:
            Numbers of documents that are in no row, as it would not have been full enough: they are to be added again.
        """
        self._end_bucket()
        self._length = self._lengths[len(self._buckets)]
        self._room = self._length - FRAME
        left, self._left = self._left, []
        return left

    def _end_bucket(self) -> None:
        self._pack()
        rows = self._written_rows + len(self._rows) - sum(bucket.rows for bucket in self._buckets)
        self._buckets.append(LengthBucket(longest=self._length, rows=rows))

    def close(self, documents: int) -> PackedRecord:
        """Pack and write what is left; returns the record of the split, which holds ``documents`` documents."""
        self._end_bucket()
        while self._rows:
            self._write(min(len(self._rows), self._config.rows_per_shard))
        places = sum(bucket.rows * bucket.longest for bucket in self._buckets)
        return PackedRecord(
            rows=self._written_rows,
            documents=documents,
            tokens=self._written_tokens,
            fill=round(self._written_tokens / places, 6) if places else 0.0,
            shards=tuple(self._shards),
            sources=self._sources,
            buckets=tuple(self._buckets) if len(self._lengths) > 1 else (),
        )

    def _pack(self) -> None:
        length, record = self._length, self._tokenizer.record
        pieces = [Piece(number, *span) for number, ids in self._documents.items() for span in self._spans(ids)]
        rows = pack_pieces(pieces, length)
        if length < self._config.sequence_length:
            is_full = [sum(piece.size for piece in row) >= _FULL_SHARE * length for row in rows]
            self._left += [piece.document for row, full in zip(rows, is_full, strict=True) if not full for piece in row]
            rows = [row for row, full in zip(rows, is_full, strict=True) if full]
        elif self._config.cut_at_sentences:
            donors = self._donors(sum(length - sum(piece.size for piece in row) for row in rows))
            if donors:
                given = {number for number, _ in donors}
                rows = pack_pieces([piece for piece in pieces if piece.document not in given], length)
                rest = fill_gaps(rows, donors, length)
                rows += pack_pieces(rest, length)
        for start in range(0, len(rows), _FILLED_ROWS):
            filled = rows[start : start + _FILLED_ROWS]
            self._rows += fill_rows(filled, self._documents, cls_id=record.cls_id, sep_id=record.sep_id)
        self._origins += origins(rows)
        self._documents, self._places = {}, 0
        while len(self._rows) >= self._config.rows_per_shard:
            self._write(self._config.rows_per_shard)

    def _spans(self, ids: npt.NDArray[np.int32]) -> list[tuple[int, int]]:
        if len(ids) <= self._room:
            return [(0, len(ids))]
        ends = np.flatnonzero(self._is_end[ids]) + 1 if self._config.cut_at_sentences else None
        return cut(len(ids), self._room, ends, self._config.overlap)

    def _donors(self, gaps: int) -> list[tuple[int, int]]:
        """(document, tokens) of the long documents of the window that fill the places which cuts at sentences' ends left open.

        Such cuts leave 5 to 10 % of rows of 128 tokens open. So that about as much is given as is open, the share that is left open in all
        rows is given; which documents give is as good as random and decided by their numbers.
        """
        wanted = gaps / (1 + gaps / max(1, self._places))
        found, given = [], 0
        long = (number for number, ids in self._documents.items() if len(ids) > self._room)
        for number in sorted(long, key=lambda number: number * _SCATTER % 2**32):
            if given >= wanted:
                break
            found.append((number, len(self._documents[number])))
            given += len(self._documents[number])
        return found

    def _write(self, count: int) -> None:
        rows, found = self._rows[:count], self._origins[:count]
        self._shards.append(f"packed/{self._prefix}-{len(self._shards):05d}.arrow")
        write_shard(self._folder / self._shards[-1], rows, found, self._tokenizer.record.special_ids)
        self._written_rows += len(rows)
        self._written_tokens += sum(len(row.ids) for row in rows)
        self._rows, self._origins = self._rows[count:], self._origins[count:]
