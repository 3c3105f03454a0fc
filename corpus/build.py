"""START HERE: the road from sources to a build folder. ``planning.plan`` looks and decides, ``apply`` does it.

read and prepare every row (``pieces.py``, ``stages.py``) -> decide about all of them (``decisions.py``) -> check the labelled ones
(``labelled_build.py``) -> tokenise what is kept, and train the tokenizer before if asked to (``tokenising.py``) -> pack -> write, with the
labelled rows and a manifest

Labelled rows are repaired, never dropped or moved. Knows no Ray: per-row work goes through a ``Mapper`` (``stages.py``, ``ray_stages.py``).
Each step's results are kept in a ``PieceStore``, so that a build that was cut goes on; memory is bounded by a wave of pieces and a window
of rows, not by the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corpus.config import DataConfig
from corpus.contamination import EvaluationIndex, grams
from corpus.decisions import COLUMNS, Decisions, decide, places
from corpus.labelled_build import check_labelled, label_names_of, write_labelled
from corpus.manifest import (
    MANIFEST,
    BuildManifest,
    FindingRecord,
    PackedRecord,
    SourceRecord,
    StageCount,
    files_in,
    fingerprint_of,
    read_manifest,
)
from corpus.packing import FRAME
from corpus.pieces import Piece, Prepared, Sample, prepare
from corpus.planning import BuildPlan, require_replaceable
from corpus.sources import read_file
from corpus.stages import STAGE_VERSION, Mapper, OnProgress, Prepare
from corpus.store import PieceStore, piece_store
from corpus.tokenising import KeptTexts
from corpus.tokenizer import TokenizerPlan, save_tokenizer
from corpus.windows import PREFIXES, PackedWriter
from foundation.bundle import sha256_of, software_versions
from foundation.errors import DataError
from foundation.folders import new_folder, require_room
from foundation.home import now_utc, write_atomically

# Room for the manifest and the Arrow files' own headers.
_MANIFEST_BYTES = 100_000
_EXAMPLE_CHARACTERS = 200


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
    labels = label_names_of(plan)
    require_room(out, plan.input_bytes)
    with piece_store(store) as kept:
        prepared = _prepared(plan, mapper, kept, on_progress or _silent)
        pieces = [piece for source in prepared.values() for piece in source.pieces]
        columns = pa.concat_tables(kept.get(piece.key).select(COLUMNS) for piece in pieces)
        decisions = decide(columns, config, labels=labels, bad_lines=sum(source.bad_lines for source in prepared.values()))
        findings = check_labelled(config, kept, pieces, decisions.split, labels)
        if not decisions.keep[decisions.split == 0].any():
            raise DataError(f"{out}: no text is left to pack, so nothing was written ({_why(decisions)}); relax `cleaning`")
        texts = KeptTexts(config, mapper, kept, pieces, decisions, on_progress or _silent)
        tokenizer = plan.tokenizer or texts.train_tokenizer()
        tokenised = texts.tokenise(tokenizer)
        used = [*(note for source in prepared.values() for note in source.notes), *(piece.key for piece in pieces), *texts.used]
        kept.use(used)
        written = tokenizer.size_bytes + _MANIFEST_BYTES + _bytes_to_write(kept, pieces, tokenised)
        with new_folder(out, written) as folder:
            save_tokenizer(tokenizer, folder / "tokenizer")
            labelled = write_labelled(config, kept, pieces, decisions.split, labels, folder / "labelled")
            packed, packing = _write_packed(config, tokenizer, kept, pieces, tokenised, decisions, folder)
            hashes = {name: sha256_of(folder / name) for name in files_in(folder)}
            stages = _with_examples(decisions, kept, pieces, [text for source in prepared.values() for text in source.bad_examples])
            manifest = BuildManifest(
                created=now_utc(),
                recipe=config.model_dump(mode="json"),
                recipe_fingerprint=plan.recipe_fingerprint,
                fingerprint=fingerprint_of(hashes),
                sources={name: SourceRecord(files=plan.files[name], rows=source.rows) for name, source in prepared.items()},
                stages=(*stages, *packing),
                tokenizer=tokenizer.record,
                tokenised=texts.measured(tokenised),
                sequence_length=config.sequence_length,
                labels=labels,
                labelled=labelled,
                label_kind=config.label_kind,
                has_pairs=config.has_pairs,
                findings=tuple(FindingRecord.model_validate(finding.as_json()) for finding in findings),
                packed=packed,
                software=software_versions(),
                files=hashes,
            )
            write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        kept.record_build(out, manifest.fingerprint, used)
    return manifest


def _silent(*_: Any) -> None:
    pass


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
            if len(blank) and config.checks.empty_texts == "refuse":
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


def _bytes_to_write(store: PieceStore, pieces: list[Piece], tokenised: list[str]) -> int:
    tokens = sum(int(store.get(key).nbytes) for key in tokenised)
    # Texts of unlabelled rows are null here.
    return tokens + sum(int(store.get(piece.key).select(["text", "pair"]).nbytes) for piece in pieces)


def _write_packed(
    config: DataConfig,
    tokenizer: TokenizerPlan,
    store: PieceStore,
    pieces: list[Piece],
    tokenised: list[str],
    decisions: Decisions,
    folder: Path,
) -> tuple[dict[str, PackedRecord], list[StageCount]]:
    """Pack and write training and validation rows; returns their records and the counters of packing."""
    (folder / "packed").mkdir()
    records, stages = {}, []
    is_weighted = any(found.weight is not None for found in config.sources.values())
    for which, (name, prefix) in enumerate(PREFIXES.items()):
        buckets = config.length_buckets if name == "train" else ()
        writer = PackedWriter(folder, prefix, config, tokenizer, buckets=buckets)
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
