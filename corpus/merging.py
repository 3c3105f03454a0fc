"""Builds of one tokenizer become one build, without going back to their sources: shards are copied, documents numbered on, counters added.

What must be alike, and how sources are called, is ``merge_planning.py``. Readers (``shards.py``, ``labelled.py``) see a build like any
other.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from corpus.labels import LABELLED_SPLITS
from corpus.manifest import MANIFEST, BuildManifest, PackedRecord, StageCount, files_in, fingerprint_of, read_manifest
from corpus.merge_planning import MergePlan, Part, labelled_schema
from corpus.planning import require_replaceable
from corpus.shards import TOKENIZER_FOLDER, renumber_shard
from corpus.windows import PREFIXES
from foundation.bundle import sha256_of, software_versions
from foundation.folders import new_folder
from foundation.home import now_utc, write_atomically

_MANIFEST_BYTES = 100_000
_SHOWN_EXAMPLES = 3


def apply(plan: MergePlan, *, replace: bool = False, on_progress: Callable[[int], None] = lambda _: None) -> BuildManifest:
    """Carry a plan out; a result that is already there is returned as it is.

    Args:
        plan: From ``merge_planning.plan``.
        replace: Write anew over a different or damaged build.
        on_progress: Told how many shards are copied.

    Raises:
        DataError: A different build at ``out`` without ``replace``.
        InputError: The disk has too little room.
        RunError: The disk filled up on the way. Nothing is left half-written in any case.
    """
    out, parts = Path(plan.out), plan.parts
    if plan.state == "up to date":
        return read_manifest(out)
    require_replaceable(plan, replace)
    with new_folder(out, plan.bytes + _MANIFEST_BYTES) as folder:
        shutil.copytree(parts[0].folder / TOKENIZER_FOLDER, folder / TOKENIZER_FOLDER)
        labelled = _write_labelled(parts, folder / "labelled") if any(part.manifest.labelled for part in parts) else {}
        packed = _write_packed(parts, folder, on_progress)
        hashes = {name: sha256_of(folder / name) for name in files_in(folder)}
        manifest = BuildManifest(
            created=now_utc(),
            recipe=_recipe(parts),
            recipe_fingerprint=plan.recipe_fingerprint,
            fingerprint=fingerprint_of(hashes),
            sources=_renamed(parts, "sources"),
            stages=merged_stages([part.manifest.stages for part in parts]),
            tokenizer=parts[0].manifest.tokenizer,
            tokenised=_renamed(parts, "tokenised"),
            sequence_length=parts[0].manifest.sequence_length,
            labels=plan.labels,
            labelled=labelled,
            label_kind=plan.label_kind,
            has_pairs=plan.has_pairs,
            findings=tuple(finding for part in parts for finding in part.manifest.findings),
            packed=packed,
            software=software_versions(),
            files=hashes,
        )
        write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def merged_stages(builds: Sequence[Sequence[StageCount]]) -> tuple[StageCount, ...]:
    """The counters of several builds added up by stage. Through a stage that a build did not have, its rows pass untouched."""
    order: list[str] = []
    for stages in builds:
        place = 0
        for stage in stages:
            if stage.stage not in order:
                order.insert(place, stage.stage)
            place = order.index(stage.stage) + 1
    rows = [stages[0].rows_in if stages else 0 for stages in builds]
    merged = []
    for name in order:
        found = []
        for number, stages in enumerate(builds):
            passed = StageCount(stage=name, rows_in=rows[number], rows_out=rows[number])
            found.append(next((stage for stage in stages if stage.stage == name), passed))
            rows[number] = found[-1].rows_out
        merged.append(_added(name, found))
    return tuple(merged)


def _added(name: str, stages: Sequence[StageCount]) -> StageCount:
    dropped, counts, examples = Counter[str](), Counter[str](), dict[str, tuple[str, ...]]()
    for stage in stages:
        dropped.update(stage.dropped)
        counts.update(stage.counts)
        for reason, shown in stage.examples.items():
            examples[reason] = (*examples.get(reason, ()), *shown)[:_SHOWN_EXAMPLES]
    return StageCount(
        stage=name,
        rows_in=sum(stage.rows_in for stage in stages),
        rows_out=sum(stage.rows_out for stage in stages),
        dropped=dict(sorted(dropped.items())),
        changed=sum(stage.changed for stage in stages),
        counts=dict(sorted(counts.items())),
        examples=examples,
    )


def _renamed(parts: Sequence[Part], field: str) -> dict[str, Any]:
    return {part.names[name]: record for part in parts for name, record in getattr(part.manifest, field).items()}


def _recipe(parts: Sequence[Part]) -> dict[str, Any]:
    return {
        "merge": [
            {
                "folder": str(part.folder),
                "fingerprint": part.manifest.fingerprint,
                "recipe_fingerprint": part.manifest.recipe_fingerprint,
                "sources": part.names,
                "recipe": part.manifest.recipe,
            }
            for part in parts
        ],
        # Where readers look for weights.
        "sources": {part.names[name]: part.manifest.recipe["sources"][name] for part in parts for name in part.names},
    }


def _write_packed(parts: Sequence[Part], folder: Path, on_progress: Callable[[int], None]) -> dict[str, PackedRecord]:
    (folder / "packed").mkdir()
    done = 0
    packed = {}
    for split, prefix in PREFIXES.items():
        shards: list[str] = []
        records = [part.manifest.packed[split] for part in parts]
        for part, record in zip(parts, records, strict=True):
            for shard in record.shards:
                shards.append(f"packed/{prefix}-{len(shards):05d}.arrow")
                renumber_shard(part.folder / shard, folder / shards[-1], part.first_document)
                done += 1
                on_progress(done)
        rows, tokens = sum(record.rows for record in records), sum(record.tokens for record in records)
        places = rows * parts[0].manifest.sequence_length
        packed[split] = PackedRecord(
            rows=rows,
            documents=sum(record.documents for record in records),
            tokens=tokens,
            fill=round(tokens / places, 6) if places else 0.0,
            shards=tuple(shards),
            sources={part.names[name]: n for part, record in zip(parts, records, strict=True) for name, n in record.sources.items()},
        )
    return packed


def _write_labelled(parts: Sequence[Part], folder: Path) -> dict[str, int]:
    """Write the labelled rows of all builds, one build after the other; returns rows by split."""
    folder.mkdir()
    counts = {}
    labelled = [part for part in parts if part.manifest.labelled]
    schema = labelled_schema(labelled[0].folder)
    for split in LABELLED_SPLITS:
        counts[split] = 0
        with pa.OSFile(str(folder / f"{split}.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for table in _labelled_tables(labelled, split):
                writer.write_table(table)
                counts[split] += len(table)
    return counts


def _labelled_tables(parts: Sequence[Part], split: str) -> Iterator[pa.Table]:
    for part in parts:
        with pa.memory_map(str(part.folder / "labelled" / f"{split}.arrow")) as source:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                table = pa.Table.from_batches([reader.get_batch(number)])
                names = pa.array([part.names[name] for name in table.column("source").to_pylist()], pa.string())
                yield table.set_column(table.column_names.index("source"), "source", names)
