"""START HERE: the road from sources to a build folder. ``planning.plan`` looks and decides, ``apply`` does it.

read and prepare every row (``pieces.py``, ``stages.py``) -> decide about all of them (``decisions.py``) -> tokenise what is kept -> pack
-> write, with the labelled rows and a manifest

Labelled rows are repaired, never dropped or moved. Knows no Ray: per-row work goes through a ``Mapper`` (``stages.py``, ``ray_stages.py``).
Each step's results are kept in a ``PieceStore``, so that a build that was cut goes on; memory is bounded by a wave of pieces and a window
of rows, not by the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corpus.atomic import new_folder, require_room
from corpus.contamination import EvaluationIndex, grams
from corpus.decisions import COLUMNS, SPLITS, Decisions, decide, places
from corpus.labelled import label_indices, label_names
from corpus.manifest import MANIFEST, BuildManifest, PackedRecord, SourceRecord, StageCount, files_in, fingerprint_of, read_manifest
from corpus.packing import FRAME
from corpus.pieces import Piece, Prepared, Sample, prepare, read_tables
from corpus.planning import BuildPlan, require_replaceable
from corpus.sources import labelled_rows, read_file
from corpus.stages import STAGE_VERSION, Mapper, Prepare, Tokenise
from corpus.store import PieceStore, piece_store
from corpus.tokenizer import copy_tokenizer
from corpus.windows import PackedWriter
from foundation.bundle import sha256_of, software_versions
from foundation.errors import DataError
from foundation.home import write_atomically

# Room for the manifest and the Arrow files' own headers.
_MANIFEST_BYTES = 100_000
_PIECES_IN_WAVE = 16
_LABELLED_BATCH = 50_000
_EXAMPLE_CHARACTERS = 200

OnProgress = Callable[[str, int, int], None]
"""Told (what is done, units done, units in all): ``clean`` in kilobytes of input, ``tokenise`` in documents."""


def apply(
    plan: BuildPlan, mapper: Mapper, *, store: Path | None = None, replace: bool = False, on_progress: OnProgress | None = None
) -> BuildManifest:
    """Carry a plan out; a result that is already there is returned as it is.

    Args:
        plan: From ``plan``.
        mapper: Who runs the per-row work.
        store: Where finished pieces are kept between builds; None keeps none.
        replace: Build anew over a different or damaged build.
        on_progress: Told how far it is.

    Raises:
        DataError: Rows that cannot be used, nothing left to pack, or a different build at ``out`` without ``replace``.
        InputError: The disk has too little room.
        RunError: The disk filled up on the way. Nothing is left half-written in any case.
    """
    config, out = plan.config, Path(plan.config.out)
    if plan.state == "up to date":
        return read_manifest(out)
    require_replaceable(plan, replace)
    labels = _label_names(plan)
    require_room(out, plan.input_bytes)
    with piece_store(store) as kept:
        prepared = _prepared(plan, mapper, kept, on_progress or _silent)
        pieces = [piece for source in prepared.values() for piece in source.pieces]
        columns = pa.concat_tables(kept.get(piece.key).select(COLUMNS) for piece in pieces)
        decisions = decide(columns, config, bad_lines=sum(source.bad_lines for source in prepared.values()))
        if not decisions.keep[decisions.split == 0].any():
            raise DataError(f"{out}: no text is left to pack, so nothing was written ({_why(decisions)}); relax `cleaning`")
        tokenised = _tokenised(plan, mapper, kept, pieces, decisions, on_progress or _silent)
        kept.use([*(piece.key for piece in pieces), *tokenised])
        written = plan.tokenizer.copied_bytes + _MANIFEST_BYTES + _bytes_to_write(kept, pieces, tokenised, bool(labels))
        with new_folder(out, written) as folder:
            copy_tokenizer(plan.tokenizer, folder / "tokenizer")
            labelled = _write_labelled(kept, pieces, decisions, labels, folder / "labelled")
            packed, packing = _write_packed(plan, kept, pieces, tokenised, decisions, folder)
            hashes = {name: sha256_of(folder / name) for name in files_in(folder)}
            stages = _with_examples(decisions, kept, pieces, [text for source in prepared.values() for text in source.bad_examples])
            manifest = BuildManifest(
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                recipe=config.model_dump(mode="json"),
                recipe_fingerprint=plan.recipe_fingerprint,
                fingerprint=fingerprint_of(hashes),
                sources={name: SourceRecord(files=plan.files[name], rows=source.rows) for name, source in prepared.items()},
                stages=(*stages, *packing),
                tokenizer=plan.tokenizer.record,
                sequence_length=config.sequence_length,
                labels=labels,
                labelled=labelled,
                packed=packed,
                software=software_versions(),
                files=hashes,
            )
            write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def _silent(*_: Any) -> None:
    pass


def _label_names(plan: BuildPlan) -> tuple[str, ...]:
    """Class names of all labelled rows, which are read and checked before any work starts; empty without labelled sources."""
    trained: set[str] = set()
    tested: dict[str, str] = {}
    places = []
    for name, source in plan.config.sources.items():
        if source.builtin is None and source.label_column is None:
            continue
        where = source.path or str(source.builtin)
        places.append(where)
        for file, _ in plan.inputs[name]:
            table = pa.concat_tables(read_tables(name, source, file, rows=plan.config.batch_documents))
            labelled_rows(table, where)
            is_test = pc.equal(table.column("split"), "test")
            trained.update(table.column("label").filter(pc.invert(is_test)).unique().to_pylist())
            test = table.filter(is_test)
            for label, row in zip(test.column("label").to_pylist(), test.column("id").to_pylist(), strict=True):
                tested.setdefault(label, row)
    if not places:
        return ()
    if not trained:
        raise DataError("sources: every labelled source has `split: test`; at least one must be for training")
    labels = label_names(sorted(trained), ", ".join(places))
    label_indices(list(tested), list(tested.values()), labels, "test rows")
    return labels


def _prepared(plan: BuildPlan, mapper: Mapper, store: PieceStore, on_progress: OnProgress) -> dict[str, Prepared]:
    config = plan.config
    stage = Prepare(config.cleaning, _evaluation(plan))
    # Where evaluation files lie decides nothing; what is in them does.
    cleaning = config.cleaning.model_dump(mode="json", exclude={"decontaminate"})
    recipe = fingerprint_of([STAGE_VERSION, cleaning, config.sample, config.seed, [sha256 for _, sha256 in plan.evaluation]])
    passed, total = 0, -(-plan.input_bytes // 1_000) or 1

    def on_bytes(size: int) -> None:
        nonlocal passed
        passed += size
        # Text is larger than the compressed file that it comes from: the end is told when it is reached.
        on_progress("clean", min(passed // 1_000, total - 1), total)

    found = {}
    for name, source in config.sources.items():
        found[name] = prepare(
            name,
            source,
            plan.inputs[name],
            stage=stage,
            recipe=recipe,
            mapper=mapper,
            store=store,
            rows=config.batch_documents,
            sample=Sample(config.sample, config.seed),
            on_bytes=on_bytes,
        )
        for piece in found[name].pieces:
            table = store.get(piece.key)
            blank = table.filter(pc.and_(pc.is_valid(table.column("label")), pc.equal(table.column("clean"), "")))
            if len(blank):
                raise DataError(
                    f"{blank.column('id')[0]}: nothing is left of this labelled text after repair; it held only control characters"
                )
    if passed:
        on_progress("clean", total, total)
    return found


def _evaluation(plan: BuildPlan) -> EvaluationIndex | None:
    """Index of the evaluation texts; None when there are none."""
    index = None
    column = plan.config.cleaning.decontaminate_column
    for file, _ in plan.evaluation:
        for table in read_file(file, text_column=column):
            found = grams([text or "" for text in table.column("text").to_pylist()])
            index = found if index is None else index | found
    return index


def _tokenised(
    plan: BuildPlan, mapper: Mapper, store: PieceStore, pieces: list[Piece], decisions: Decisions, on_progress: OnProgress
) -> list[str]:
    """Keys of the token ids of every piece."""
    paragraphs = plan.config.cleaning.repeated_paragraphs
    boilerplate = plan.config.cleaning.boilerplate
    frequent = b"" if decisions.frequent_lines is None else decisions.frequent_lines.tobytes()
    stage = Tokenise(plan.tokenizer.serialised, paragraphs, frequent, boilerplate.min_counted_characters if boilerplate else 1)
    starts = np.cumsum([0, *(piece.rows for piece in pieces)])
    flags = _paragraph_flags(store, pieces, decisions)
    keys = []
    for number, piece in enumerate(pieces):
        keep = decisions.keep[starts[number] : starts[number + 1]]
        decided = [np.packbits(found).tobytes().hex() for found in (keep, flags[number])]
        keys.append(fingerprint_of([STAGE_VERSION, piece.key, plan.tokenizer.record.sha256, paragraphs, frequent.hex(), decided]))
    missing = [number for number, key in enumerate(keys) if not store.has(key)]
    done = sum(piece.rows for piece in pieces) - sum(pieces[number].rows for number in missing)
    for start in range(0, len(missing), _PIECES_IN_WAVE):
        wave = missing[start : start + _PIECES_IN_WAVE]
        tables = []
        for number in wave:
            table = store.get(pieces[number].key)
            keep = pa.array(decisions.keep[starts[number] : starts[number + 1]])
            drop = pa.ListArray.from_arrays(_offsets(table.column("paragraphs")), pa.array(flags[number]))
            tables.append(pa.table({"clean": table.column("clean"), "keep": keep, "drop": drop}))
        with closing(mapper(tables, stage)) as mapped:
            for number, result in zip(wave, mapped, strict=True):
                store.put(keys[number], result)
                done += pieces[number].rows
                on_progress("tokenise", done, int(starts[-1]))
    return keys


def _paragraph_flags(store: PieceStore, pieces: list[Piece], decisions: Decisions) -> list[npt.NDArray[np.bool_]]:
    """Of each piece, one flag for each digest in ``paragraphs``: leave that paragraph out."""
    if decisions.dropped_paragraphs is None:
        return [np.zeros(0, dtype=np.bool_) for _ in pieces]
    counts = [int(_offsets(store.get(piece.key).column("paragraphs"))[-1].as_py()) for piece in pieces]
    return np.split(decisions.dropped_paragraphs, np.cumsum(counts)[:-1])


def _offsets(lists: pa.ChunkedArray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())]).astype(np.int32))


def _bytes_to_write(store: PieceStore, pieces: list[Piece], tokenised: list[str], has_labels: bool) -> int:
    tokens = sum(int(store.get(key).nbytes) for key in tokenised)
    return tokens + (sum(int(store.get(piece.key).column("text").nbytes) for piece in pieces) if has_labels else 0)


def _write_labelled(store: PieceStore, pieces: list[Piece], decisions: Decisions, labels: tuple[str, ...], folder: Path) -> dict[str, int]:
    """Write labelled rows by split, with class indices; returns rows by split, nothing without labelled sources."""
    if not labels:
        return {}
    folder.mkdir()
    counts = {}
    for which, name in enumerate(SPLITS):
        schema = pa.schema({"id": pa.string(), "text": pa.string(), "label": pa.int32(), "source": pa.string()})
        counts[name] = 0
        with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for table in _in_batches(_labelled_tables(store, pieces, decisions, labels, which), schema):
                writer.write_table(table)
                counts[name] += len(table)
    return counts


def _labelled_tables(
    store: PieceStore, pieces: list[Piece], decisions: Decisions, labels: tuple[str, ...], which: int
) -> Iterator[pa.Table]:
    start = 0
    for piece in pieces:
        table = store.get(piece.key)
        here = decisions.split[start : start + piece.rows] == which
        start += piece.rows
        chosen = table.filter(pa.array(here & table.column("label").is_valid().to_numpy()))
        ids = chosen.column("id")
        indices = label_indices(chosen.column("label").to_pylist(), ids.to_pylist(), labels, f"{SPLITS[which]} rows")
        yield pa.table(
            {"id": ids, "text": chosen.column("text"), "label": pa.array(indices.astype(np.int32)), "source": chosen.column("source")}
        )


def _in_batches(tables: Iterator[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of ``_LABELLED_BATCH`` rows, so that the bytes that are written do not depend on how the rows came."""
    waiting = schema.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while len(waiting) >= _LABELLED_BATCH:
            yield waiting.slice(0, _LABELLED_BATCH).combine_chunks()
            waiting = waiting.slice(_LABELLED_BATCH)
    yield waiting.combine_chunks()


def _write_packed(
    plan: BuildPlan, store: PieceStore, pieces: list[Piece], tokenised: list[str], decisions: Decisions, folder: Path
) -> tuple[dict[str, PackedRecord], list[StageCount]]:
    """Pack and write training and validation rows; returns their records and the counters of packing."""
    (folder / "packed").mkdir()
    records, stages = {}, []
    is_weighted = any(found.weight is not None for found in plan.config.sources.values())
    for which, (name, prefix) in enumerate((("train", "shard"), ("validation", "validation"))):
        buckets = plan.config.length_buckets if name == "train" else ()
        writer = PackedWriter(folder, prefix, plan.config, plan.tokenizer, buckets=buckets)
        waiting = decisions.keep & (decisions.split == which)
        chosen, empty, source = int(waiting.sum()), 0, None
        for longest in (*buckets, None):
            for of_source, found in _documents(store, pieces, tokenised, waiting, longest):
                if name == "train" and source not in (None, of_source):
                    writer.end_source(source)
                source = of_source if is_weighted else None
                for number, tokens in found:
                    waiting[number] = False
                    empty += not len(tokens)
                    writer.add(number, tokens)
            if longest is not None:
                waiting[writer.next_bucket()] = True
        if name == "train" and source is not None:
            writer.end_source(source)
        record = writer.close(chosen - empty)
        if empty_source := next((found for found, rows in record.sources.items() if not rows), None):
            raise DataError(
                f"sources.{empty_source}: nothing of it is left to pack, so its weight cannot be met; relax `cleaning` or remove it"
            )
        records[name] = record
        dropped = {"no tokens": empty} if empty else {}
        stages.append(StageCount(stage=f"pack {name}", rows_in=chosen, rows_out=chosen - empty, dropped=dropped))
    return records, stages


def _documents(
    store: PieceStore, pieces: list[Piece], tokenised: list[str], waiting: npt.NDArray[np.bool_], longest: int | None
) -> Iterator[tuple[str, list[tuple[int, npt.NDArray[np.int32]]]]]:
    """Of each piece its source, and number and token ids of the documents that wait and fit whole into a row of ``longest`` (None: any)."""
    begin = 0
    for piece, key in zip(pieces, tokenised, strict=True):
        ids = store.get(key).column("ids").combine_chunks()
        values, offsets = ids.values.to_numpy(), ids.offsets.to_numpy()
        wanted = waiting[begin : begin + len(ids)]
        if longest is not None:
            wanted = wanted & (np.diff(offsets) + FRAME <= longest)
        yield piece.source, [(begin + row, values[offsets[row] : offsets[row + 1]]) for row in np.flatnonzero(wanted).tolist()]
        begin += len(ids)


def _with_examples(decisions: Decisions, store: PieceStore, pieces: list[Piece], bad_lines: list[str]) -> list[StageCount]:
    """The counters, with the beginnings of a few texts that went for each reason."""
    sizes = [piece.rows for piece in pieces]
    found = []
    for stage in decisions.stages:
        examples: dict[str, tuple[str, ...]] = {}
        if stage.stage == "read" and bad_lines:
            examples["bad line"] = tuple(bad_lines)
        for reason, numbers in decisions.examples.get(stage.stage, {}).items():
            texts = []
            for piece, row in places(sizes, numbers):
                table = store.get(pieces[piece].key).slice(row, 1)
                texts.append(f"{table.column('id')[0]}: {table.column('clean')[0].as_py()[:_EXAMPLE_CHARACTERS]}")
            examples[reason] = tuple(texts)
        found.append(stage.model_copy(update={"examples": examples}))
    return found


def _why(decisions: Decisions) -> str:
    return "; ".join(f"{reason}: {count}" for stage in decisions.stages for reason, count in stage.dropped.items()) or "no rows"
