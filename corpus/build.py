"""START HERE: the road from sources to a build folder. ``planning.plan`` looks and decides, ``apply`` does it.

read -> repair -> (labelled rows: split, check, write) and (packed corpus: hold out test, filter, deduplicate, pack, write) -> manifest

Labelled rows are repaired, never dropped or moved. Knows no Ray: per-row work goes through a ``Mapper`` (``stages.py``, ``ray_stages.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corpus import movie_reviews
from corpus.atomic import new_folder, require_room
from corpus.cleaning import repeated
from corpus.config import DataConfig
from corpus.labelled import LABELLED_SPLITS, label_indices, label_names
from corpus.manifest import MANIFEST, BuildManifest, PackedRecord, SourceRecord, StageCount, files_in, fingerprint_of, read_manifest
from corpus.packing import fill_rows, pack
from corpus.planning import BuildPlan, require_replaceable
from corpus.shards import PackedRow, write_shard
from corpus.sources import labelled_rows, read_files
from corpus.splits import validation_rows
from corpus.stages import CleanAndTokenise, Mapper
from corpus.tokenizer import copy_tokenizer
from foundation.bundle import sha256_of, software_versions
from foundation.errors import DataError
from foundation.home import write_atomically

# Room for the manifest and the Arrow files' own headers.
_MANIFEST_BYTES = 100_000


def apply(plan: BuildPlan, mapper: Mapper, *, replace: bool = False, on_rows: Callable[[int, int], None] | None = None) -> BuildManifest:
    """Carry a plan out; a result that is already there is returned as it is.

    Args:
        plan: From ``plan``.
        mapper: Who runs the per-row work.
        replace: Build anew over a different or damaged build.
        on_rows: Told (rows done, rows in all) as the per-row work goes on.

    Raises:
        DataError: Rows that cannot be used, nothing left to pack, or a different build at ``out`` without ``replace``.
        InputError: The disk has too little room.
        RunError: The disk filled up on the way. Nothing is left half-written in any case.
    """
    config, out = plan.config, Path(plan.config.out)
    if plan.state == "up to date":
        return read_manifest(out)
    require_replaceable(plan, replace)
    rows, sources = _read(config, plan.files)
    labels = _label_names(rows, _labelled_places(config))
    require_room(out, rows.nbytes)
    mapped = _mapped(rows, plan, mapper, on_rows)
    split = _splits(mapped, config)
    labelled = _labelled(mapped, split, labels)
    packed, stages = _packed(mapped, split, plan)
    written = sum(table.nbytes for table in labelled.values()) + sum(_bytes(rows) for rows, _ in packed.values())
    with new_folder(out, written + plan.tokenizer.copied_bytes + _MANIFEST_BYTES) as folder:
        copy_tokenizer(plan.tokenizer.folder, folder / "tokenizer")
        _write_labelled(labelled, folder / "labelled")
        records = {name: _write_packed(name, rows, count, plan, folder) for name, (rows, count) in packed.items()}
        hashes = {name: sha256_of(folder / name) for name in files_in(folder)}
        manifest = BuildManifest(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            recipe=config.model_dump(mode="json"),
            recipe_fingerprint=plan.recipe_fingerprint,
            fingerprint=fingerprint_of(hashes),
            sources=sources,
            stages=stages,
            tokenizer=plan.tokenizer.record,
            sequence_length=config.sequence_length,
            labels=labels,
            labelled={name: len(table) for name, table in labelled.items()},
            packed=records,
            software=software_versions(),
            files=hashes,
        )
        write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def _read(config: DataConfig, files: dict[str, dict[str, str]]) -> tuple[pa.Table, dict[str, SourceRecord]]:
    tables, records = [], {}
    for name, source in config.sources.items():
        if source.path is None:
            table = movie_reviews.read_archive(movie_reviews.fetch())
        else:
            table = read_files(source.path, text_column=source.text_column, label_column=source.label_column, file_format=source.format)
            table = table.append_column("split", pa.array([source.split] * len(table), pa.string()))
        if source.builtin is not None or source.label_column is not None:
            labelled_rows(table, source.path or str(source.builtin))
        table = table.append_column("source", pa.array([name] * len(table), pa.string()))
        tables.append(table)
        records[name] = SourceRecord(files=files[name], rows=len(table))
    return pa.concat_tables(tables), records


def _mapped(rows: pa.Table, plan: BuildPlan, mapper: Mapper, on_rows: Callable[[int, int], None] | None) -> pa.Table:
    stage = CleanAndTokenise(plan.tokenizer.serialised, plan.config.cleaning.unicode_form, plan.config.cleaning.min_characters)
    pieces, done = [], 0
    # Closed at once when anything goes wrong: the mapper may hold a Ray session.
    with closing(mapper(rows, stage)) as mapping:
        for piece in mapping:
            pieces.append(piece)
            done += len(piece)
            if on_rows is not None:
                on_rows(done, len(rows))
    mapped = pa.concat_tables(pieces)
    blank = mapped.filter(pc.and_(pc.is_valid(mapped.column("label")), pc.equal(mapped.column("text"), "")))
    if len(blank):
        raise DataError(f"{blank.column('id')[0]}: nothing is left of this labelled text after repair; it held only control characters")
    return mapped


def _splits(mapped: pa.Table, config: DataConfig) -> npt.NDArray[np.str_]:
    """(N,) ``train``, ``validation`` or ``test`` of every row."""
    split: npt.NDArray[np.str_] = mapped.column("split").to_numpy(zero_copy_only=False).astype("<U10")
    train = np.flatnonzero(split == "train")
    classes = mapped.column("label").take(pa.array(train)).combine_chunks().dictionary_encode().indices.fill_null(-1)
    held_back = validation_rows(classes.to_numpy(zero_copy_only=False).astype(np.int64), config.validation_fraction, config.seed)
    split[train[held_back]] = "validation"
    return split


def _labelled_places(config: DataConfig) -> str:
    """Where the labelled training rows come from, for messages."""
    places = [source.path or str(source.builtin) for source in config.sources.values() if source.builtin or source.label_column]
    return ", ".join(places)


def _label_names(rows: pa.Table, where: str) -> tuple[str, ...]:
    """Class names of all labelled rows, checked before any work starts; empty without labelled sources."""
    labelled = rows.filter(pc.is_valid(rows.column("label")))
    if not len(labelled):
        return ()
    test = labelled.filter(pc.equal(labelled.column("split"), "test"))
    trained = labelled.filter(pc.equal(labelled.column("split"), "train")).column("label").to_pylist()
    if not trained:
        raise DataError("sources: every labelled source has `split: test`; at least one must be for training")
    labels = label_names(trained, where)
    label_indices(test.column("label").to_pylist(), test.column("id").to_pylist(), labels, "test rows")
    return labels


def _labelled(mapped: pa.Table, split: npt.NDArray[np.str_], labels: tuple[str, ...]) -> dict[str, pa.Table]:
    """Labelled rows by split, with class indices; empty without labelled sources."""
    has_label = mapped.column("label").is_valid().to_numpy()
    found = {}
    for name in LABELLED_SPLITS if labels else ():
        table = mapped.filter(pa.array(has_label & (split == name)))
        indices = label_indices(table.column("label").to_pylist(), table.column("id").to_pylist(), labels, f"{name} rows")
        found[name] = pa.table(
            {
                "id": table.column("id"),
                "text": table.column("text"),
                "label": pa.array(indices.astype(np.int32)),
                "source": table.column("source"),
            }
        )
    return found


def _packed(
    mapped: pa.Table, split: npt.NDArray[np.str_], plan: BuildPlan
) -> tuple[dict[str, tuple[list[PackedRow], int]], tuple[StageCount, ...]]:
    """Packed rows and their number of documents by split, and the counters of every stage."""
    total = len(mapped)
    stages = [
        StageCount(stage="read", rows_in=total, rows_out=total),
        StageCount(stage="repair", rows_in=total, rows_out=total, changed=int(pc.sum(mapped.column("changed")).as_py() or 0)),
    ]
    # Train before validation: of a text that stands in both, the training copy is kept, so that held-out text is unseen text.
    numbers = np.concatenate([np.flatnonzero(split == "train"), np.flatnonzero(split == "validation")])
    stages.append(_count("hold out", total, len(numbers), {"test split": total - len(numbers)}))
    reasons = np.array(mapped.column("reason").to_pylist(), dtype=object)[numbers]
    kept = numbers[[reason is None for reason in reasons]]
    dropped = {str(reason): int((reasons == reason).sum()) for reason in sorted({r for r in reasons if r is not None})}
    stages.append(_count("filter", len(numbers), len(kept), dropped))
    if plan.config.cleaning.drop_duplicates:
        again = np.array(repeated(mapped.column("text").take(pa.array(kept)).to_pylist()), dtype=np.bool_)
        stages.append(_count("deduplicate", len(kept), int((~again).sum()), {"exact duplicate": int(again.sum())}))
        kept = kept[~again]
    if not len(kept[split[kept] == "train"]):
        why = "; ".join(f"{reason}: {count}" for stage in stages for reason, count in stage.dropped.items())
        raise DataError(f"{plan.config.out}: no text is left to pack, so nothing was written ({why or 'no rows'}); relax `cleaning`")
    documents = [ids for chunk in mapped.column("ids").chunks for ids in _views(chunk)]
    packed = {}
    for name in ("train", "validation"):
        chosen = [documents[number] for number in kept[split[kept] == name]]
        placed = pack([len(ids) for ids in chosen], plan.config.sequence_length)
        record = plan.tokenizer.record
        packed[name] = (fill_rows(placed, chosen, cls_id=record.cls_id, sep_id=record.sep_id), sum(len(ids) > 0 for ids in chosen))
        stages.append(_count(f"pack {name}", len(chosen), packed[name][1], {"no tokens": len(chosen) - packed[name][1]}))
    return packed, tuple(stages)


def _count(stage: str, rows_in: int, rows_out: int, dropped: dict[str, int]) -> StageCount:
    return StageCount(stage=stage, rows_in=rows_in, rows_out=rows_out, dropped={reason: n for reason, n in dropped.items() if n})


def _views(chunk: Any) -> list[npt.NDArray[np.int32]]:
    values, offsets = chunk.values.to_numpy(zero_copy_only=True), chunk.offsets.to_numpy()
    return [values[start:stop] for start, stop in pairwise(offsets.tolist())]


def _bytes(rows: list[PackedRow]) -> int:
    return sum(row.ids.nbytes + row.starts.nbytes + 12 for row in rows)


def _write_labelled(labelled: dict[str, pa.Table], folder: Path) -> None:
    if not labelled:
        return
    folder.mkdir()
    for name, table in labelled.items():
        with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())


def _write_packed(split: str, rows: list[PackedRow], documents: int, plan: BuildPlan, folder: Path) -> PackedRecord:
    per_shard, length = plan.config.rows_per_shard, plan.config.sequence_length
    (folder / "packed").mkdir(exist_ok=True)
    prefix = "shard" if split == "train" else split
    names = []
    for number, start in enumerate(range(0, len(rows), per_shard)):
        names.append(f"packed/{prefix}-{number:05d}.arrow")
        write_shard(folder / names[-1], rows[start : start + per_shard], plan.tokenizer.record.special_ids)
    tokens = sum(len(row.ids) for row in rows)
    fill = tokens / (len(rows) * length) if rows else 0.0
    return PackedRecord(rows=len(rows), documents=documents, tokens=tokens, fill=round(fill, 6), shards=tuple(names))
