"""Packed rows on disk: Arrow IPC shards, memory-mapped, read by row number in constant time without copying.

A row is whole documents, each ``[CLS] … [SEP]``, one after another without padding; ``starts`` says where each begins, so that attention
and positions can be kept per document. Which rows a step takes is ``order.py``; this file only fetches row ``i``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corpus.manifest import BuildManifest, read_manifest, verify
from corpus.mixture import CurriculumOrder, Source, WeightedOrder, quotas
from corpus.order import RowOrder, UniformOrder
from foundation.errors import DataError

PackedSplit = Literal["train", "validation"]
TOKENIZER_FOLDER = "tokenizer"
COUNTED_ROWS = 20_000
"""By which token frequencies are estimated."""


class PackedRow(NamedTuple):
    """One row. T = its tokens (at most ``sequence_length``), D = documents in it. Views into the memory map: do not write."""

    ids: npt.NDArray[np.int32]
    """(T,) token ids."""
    starts: npt.NDArray[np.int32]
    """(D,) where each document starts; the first is 0."""


class Origins(NamedTuple):
    """Where the pieces of one row come from. D = pieces in the row, in order."""

    documents: npt.NDArray[np.int64]
    """(D,) number of each piece's document among all rows that the sources gave."""
    offsets: npt.NDArray[np.int64]
    """(D,) the piece's first token within its document."""


class _Lists(NamedTuple):
    """A list<int32> column as two views: row i is ``values[offsets[i]:offsets[i + 1]]``."""

    values: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int32]

    def __getitem__(self, row: Any) -> Any:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def sizes(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        return self.offsets[rows + 1] - self.offsets[rows]


class PackedRows(Sequence[PackedRow]):
    """The packed rows of one split of a build folder. Opened once per process; holds file maps, not data."""

    def __init__(self, folder: Path, manifest: BuildManifest, split: PackedSplit) -> None:
        """Map the shards; use ``open``, which checks them first."""
        self.folder = folder
        self.manifest = manifest
        self.split = split
        self._ids: list[_Lists] = []
        self._starts: list[_Lists] = []
        self._maskable: list[npt.NDArray[np.int32]] = []
        self._origins: list[tuple[Any, Any]] = []
        for name in manifest.packed[split].shards:
            self._map(folder / name)
        self._ends = np.cumsum([len(part) for part in self._maskable], dtype=np.int64)
        self._is_special = np.zeros(manifest.tokenizer.vocabulary, dtype=np.bool_)
        self._is_special[list(manifest.tokenizer.special_ids)] = True

    @classmethod
    def open(cls, folder: Path, split: PackedSplit = "train", *, check: bool = True) -> PackedRows:
        """Open the rows of ``folder``.

        Args:
            folder: A folder that ``data build`` made.
            split: Training rows, or the rows held back for the loss on unseen text.
            check: Hash the shards and the tokenizer against the manifest first.

        Raises:
            DataError: No manifest, no rows in this split, or a missing or altered file, by name.
        """
        folder = Path(folder).absolute()
        manifest = read_manifest(folder)
        if split not in manifest.packed or not manifest.packed[split].rows:
            raise DataError(f"{folder}: holds no packed {split} rows; it has {', '.join(manifest.packed) or 'none'}")
        if check:
            tokenizer = [name for name in manifest.files if name.startswith(f"{TOKENIZER_FOLDER}/")]
            verify(folder, manifest, [*manifest.packed[split].shards, *tokenizer])
        return cls(folder, manifest, split)

    @property
    def sequence_length(self) -> int:
        """No row has more tokens."""
        return self.manifest.sequence_length

    @property
    def tokenizer_folder(self) -> Path:
        """The tokenizer whose ids the rows hold, as transformers reads it."""
        return self.folder / TOKENIZER_FOLDER

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.row(i) for i in range(*index.indices(len(self)))]
        return self.row(index + len(self) if index < 0 else index)

    def row(self, i: int) -> PackedRow:
        """Row ``i``, without a copy.

        Raises:
            IndexError: There is no such row.
        """
        part, inside = self._locate(i)
        return PackedRow(self._ids[part][inside], self._starts[part][inside])

    def order(self, seed: int, *, short_first: bool = False) -> RowOrder:
        """The order in which training visits the rows: each once an epoch, or a quota of each source where sources are weighted.

        Args:
            seed: Of the order.
            short_first: Each epoch goes through the length buckets, the one with the shortest rows first.

        Raises:
            DataError: ``short_first``, and the rows are in no buckets.
        """
        record = self.manifest.packed[self.split]
        if short_first:
            if not record.buckets:
                raise DataError(
                    f"{self.folder}: its rows are in no length buckets, so there are no short ones to begin with; build it with "
                    "length_buckets, for example `raybert data build … length_buckets=[32,64]`, or remove `curriculum`"
                )
            return CurriculumOrder(tuple(bucket.rows for bucket in record.buckets), seed)
        sources = record.sources
        if not sources:
            return UniformOrder(len(self), seed)
        weights = [self.manifest.recipe["sources"][name]["weight"] for name in sources]
        shares = quotas(weights, len(self))
        return WeightedOrder(tuple(Source(*item) for item in zip(sources, sources.values(), shares, strict=True)), seed)

    def origins(self, i: int) -> Origins:
        """Where the pieces of row ``i`` come from."""
        part, inside = self._locate(i)
        documents, offsets = self._origins[part]
        return Origins(documents[inside].values.to_numpy(), offsets[inside].values.to_numpy())

    def lengths(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(G,) tokens of each of ``rows``, (G,) row numbers; found from the shards' offsets, without reading the tokens."""
        return self._of_rows(rows, lambda part, inside: self._ids[part].sizes(inside))

    def maskable_counts(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(G,) how many tokens of each of ``rows`` may be masked; read from the shards, not counted."""
        return self._of_rows(rows, lambda part, inside: self._maskable[part][inside])

    def maskable(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Which of ``ids`` (any shape) may be masked: all but special tokens."""
        return ~self._is_special[ids]

    def token_counts(self, most_rows: int = COUNTED_ROWS) -> npt.NDArray[np.int64]:
        """(V,) how often each token that may be masked occurs in at most ``most_rows`` rows, evenly spaced; special tokens count 0."""
        rows, counts = range(0, len(self), -(-len(self) // most_rows)), np.zeros(len(self._is_special), dtype=np.int64)
        # A hundred rows at once: all of them, of thousands of tokens, would fill memory.
        for first in range(0, len(rows), 100):
            counts += np.bincount(np.concatenate([self.row(i).ids for i in rows[first : first + 100]]), minlength=len(counts))
        counts[self._is_special] = 0
        return counts

    def _of_rows(
        self, rows: npt.NDArray[np.int64], find: Callable[[int, npt.NDArray[np.int64]], npt.NDArray[np.int32]]
    ) -> npt.NDArray[np.int64]:
        """What ``find`` gives for the rows of each shard, in the order of ``rows``."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()}: {self.folder} has {len(self)} rows")
        parts = np.searchsorted(self._ends, rows, side="right")
        found = np.empty(len(rows), dtype=np.int64)
        for part in np.unique(parts).tolist():
            chosen = parts == part
            found[chosen] = find(part, rows[chosen] - (self._ends[part - 1] if part else 0))
        return found

    def _locate(self, i: int) -> tuple[int, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"row {i}: {self.folder} has {len(self)} rows")
        part = int(np.searchsorted(self._ends, i, side="right"))
        return part, i - (int(self._ends[part - 1]) if part else 0)

    def _map(self, file: Path) -> None:
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(file)))
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{file}: not a readable Arrow shard ({error}); build the data again with `raybert data build --replace`"
            ) from None
        for batch in batches:
            self._ids.append(_lists(batch.column("ids")))
            self._starts.append(_lists(batch.column("starts")))
            self._origins.append((batch.column("documents"), batch.column("offsets")))
            self._maskable.append(batch.column("maskable").to_numpy(zero_copy_only=True))


def map_shard(file: Path) -> Iterator[tuple[PackedRow, Origins]]:
    """The rows of one shard with where their pieces come from."""
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_file(source).read_all()
    for row in table.to_batches():
        columns = {name: row.column(name) for name in ("ids", "starts", "documents", "offsets")}
        for number in range(len(row)):
            ids, starts, documents, offsets = (column[number].values.to_numpy() for column in columns.values())
            yield PackedRow(ids, starts), Origins(documents, offsets)


def renumber_shard(shard: Path, target: Path, first: int) -> None:
    """Copy a shard; its documents are numbered on from ``first``."""
    with pa.memory_map(str(shard)) as source:
        table = pa.ipc.open_file(source).read_all()
        documents = table.column("documents").combine_chunks()
        numbered = pa.ListArray.from_arrays(documents.offsets, pc.add(documents.values, first))
        table = table.set_column(table.column_names.index("documents"), "documents", numbered)
        with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)


def write_shard(file: Path, rows: Sequence[PackedRow], origins: Sequence[Origins], special_ids: Sequence[int]) -> None:
    """Write rows as one Arrow IPC file of one record batch; equal rows give equal bytes."""
    lengths = np.array([len(row.ids) for row in rows], dtype=np.int64)
    values = np.concatenate([row.ids for row in rows]) if len(rows) else np.zeros(0, dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    allowed = np.concatenate([[0], np.cumsum(~np.isin(values, list(special_ids)))])
    pieces = np.concatenate([[0], np.cumsum([len(row.starts) for row in rows])])

    def of_pieces(arrays: Sequence[npt.NDArray[Any]], kind: type[Any]) -> Any:
        return _list_array(np.concatenate(arrays).astype(kind, copy=False) if len(arrays) else np.zeros(0, kind), pieces)

    table = pa.table(
        {
            "ids": _list_array(values.astype(np.int32, copy=False), offsets),
            "starts": of_pieces([row.starts for row in rows], np.int32),
            "documents": of_pieces([origin.documents for origin in origins], np.int64),
            "offsets": of_pieces([origin.offsets for origin in origins], np.int64),
            "maskable": pa.array((allowed[offsets[1:]] - allowed[offsets[:-1]]).astype(np.int32)),
        }
    )
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _list_array(values: npt.NDArray[Any], offsets: npt.NDArray[Any]) -> Any:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def _lists(column: Any) -> _Lists:
    return _Lists(column.values.to_numpy(zero_copy_only=True), column.offsets.to_numpy(zero_copy_only=True))
