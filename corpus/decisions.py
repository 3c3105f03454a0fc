"""What only all rows together decide: which split a row is in, which rows are duplicates, what enters the packed corpus. Pure, over small
columns of the prepared pieces; texts stay where they are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corpus.config import DataConfig, NearDuplicateConfig
from corpus.duplicates import ParagraphDigests, clusters, first_occurrences, seen_in_earlier_documents
from corpus.labels import LABELLED_SPLITS as SPLITS
from corpus.labels import label_array, memberships, strata_of
from corpus.manifest import StageCount
from corpus.minhash import verifier
from corpus.quality_config import BoilerplateConfig
from corpus.splits import TEST, TRAIN, VALIDATION, Groups, Shares, assign

COLUMNS = ("split", "source", "group", "label", "reason", "changed", "counts", "digest", "paragraphs", "lines", "signature", "bands")


@dataclass(frozen=True)
class Decisions:
    """N = rows of all sources, in order."""

    split: npt.NDArray[np.int8]
    """(N,) index into ``SPLITS``."""
    keep: npt.NDArray[np.bool_]
    """(N,) what is packed."""
    stages: tuple[StageCount, ...]
    examples: dict[str, dict[str, list[int]]]
    """Stage to reason to the numbers of the first few rows that it took."""
    dropped_paragraphs: npt.NDArray[np.bool_] | None = None
    """One for each digest in ``paragraphs`` of all rows: stands in an earlier kept document. None when nobody asked."""
    in_place_of: dict[int, int] | None = None
    """Row dropped as a near-duplicate to the row that was kept for it."""
    frequent_lines: npt.NDArray[np.uint64] | None = None
    """Digests, ascending, of lines that are removed because they stand in too many documents."""


_SHOWN = 3


def decide(columns: pa.Table, config: DataConfig, *, labels: Sequence[str] = (), bad_lines: int = 0) -> Decisions:
    """Decide about every row.

    Args:
        columns: The columns ``COLUMNS`` of all rows, as ``stages.Prepare`` makes them.
        config: The recipe.
        labels: Class names of all labelled rows; empty without such rows, and for numbers.
        bad_lines: Lines that could not be read, for the counters.
    """
    total = len(columns)
    split = split_of(columns, config, labels)
    stages = [
        StageCount(stage="read", rows_in=total + bad_lines, rows_out=total, dropped={"bad line": bad_lines} if bad_lines else {}),
        StageCount(stage="repair", rows_in=total, rows_out=total, changed=int(np.count_nonzero(_numpy(columns, "changed")))),
    ]
    examples: dict[str, dict[str, list[int]]] = {}
    keep = split != SPLITS.index("test")
    stages.append(_count("hold out", total, keep, {"test split": total - int(keep.sum())}))
    reasons = columns.column("reason").combine_chunks().dictionary_encode()
    codes = reasons.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    before, dropped = int(keep.sum()), dict[str, int]()
    for code, reason in sorted(enumerate(reasons.dictionary.to_pylist()), key=lambda item: item[1]):
        taken = np.flatnonzero(keep & (codes == code))
        if len(taken):
            dropped[reason] = len(taken)
            examples.setdefault("filter", {})[reason] = taken[:_SHOWN].tolist()
    keep &= codes == -1
    stages.append(_count("filter", before, keep, dropped))
    if config.cleaning.drop_duplicates:
        numbers = _in_order(keep, split)
        again = numbers[~first_occurrences(_digests(columns.column("digest"))[numbers])]
        keep[again] = False
        stages.append(_count("deduplicate", len(numbers), keep, {"exact duplicate": len(again)}))
        if len(again):
            examples["deduplicate"] = {"exact duplicate": np.sort(again)[:_SHOWN].tolist()}
    in_place_of = None
    if config.cleaning.near_duplicates is not None:
        in_place_of = _near_duplicates(columns, _in_order(keep, split), config.cleaning.near_duplicates)
        before = int(keep.sum())
        keep[list(in_place_of)] = False
        stages.append(_count("near-deduplicate", before, keep, {"near-duplicate": len(in_place_of)}))
        if in_place_of:
            examples["near-deduplicate"] = {"near-duplicate": sorted(in_place_of)[:_SHOWN]}
    dropped_paragraphs = None
    if config.cleaning.repeated_paragraphs is not None:
        dropped_paragraphs = _repeated_paragraphs(columns, keep, split)
        found, kept = int(dropped_paragraphs.sum()), int(keep.sum())
        stages.append(StageCount(stage="paragraphs", rows_in=kept, rows_out=kept, counts={"repeated paragraphs": found} if found else {}))
    frequent_lines = _frequent_lines(columns, keep, config.cleaning.boilerplate)
    kept = int(keep.sum())
    counts = _within_texts(columns, keep) | ({"frequent lines": len(frequent_lines)} if len(frequent_lines) else {})
    stages.append(StageCount(stage="within texts", rows_in=kept, rows_out=kept, counts=counts))
    return Decisions(split, keep, tuple(stages), examples, dropped_paragraphs, in_place_of, frequent_lines)


def split_of(columns: pa.Table, config: DataConfig, labels: Sequence[str]) -> npt.NDArray[np.int8]:
    """(N,) index into ``SPLITS`` of every row: as the sources say, else drawn from train, per class or by group where there are some.

    Args:
        columns: ``split``, ``source``, ``group`` and ``label`` of all rows.
        config: The recipe.
        labels: Class names.
    """
    said = columns.column("split").combine_chunks().dictionary_encode()
    numbers = np.array([SPLITS.index(name) for name in said.dictionary.to_pylist()], dtype=np.int8)
    marked: npt.NDArray[np.int8] = numbers[said.indices.to_numpy()]
    split = marked.copy()
    strata, rows, classes = _strata(columns.column("label"), split == TRAIN, config, labels)
    keys = columns.column("group").combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)
    sources = columns.column("source").combine_chunks().dictionary_encode().indices.to_numpy()
    # A source that brings validation or test rows keeps to them; the others are drawn from together.
    shares = {}
    for source in np.unique(sources).tolist():
        own = set(np.unique(marked[sources == source]).tolist())
        shares[source] = Shares(0.0 if VALIDATION in own else config.validation_fraction, 0.0 if TEST in own else config.test_fraction)
    for share in sorted(set(shares.values())):
        alike = [source for source, found in shares.items() if found == share]
        here = np.flatnonzero((marked == TRAIN) & np.isin(sources, alike))
        place = np.full(len(marked), -1, dtype=np.int64)
        place[here] = np.arange(len(here))
        inside = place[rows] >= 0
        groups = Groups(keys[here], place[rows[inside]], classes[inside]) if (keys[here] >= 0).any() else None
        split[here] = assign(marked[here], strata[here], share, config.seed, groups)
    return split


def _strata(
    column: pa.ChunkedArray, is_train: npt.NDArray[np.bool_], config: DataConfig, labels: Sequence[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(N,) what the draw is stratified by, -1 without a label; (M,) rows and (M,) classes that they have."""
    strata = np.full(len(column), -1, dtype=np.int64)
    if config.label_kind == "single":
        # Numbered as they first occur among the training rows, which decides the draws.
        train = np.flatnonzero(is_train)
        found = column.take(pa.array(train)).combine_chunks().dictionary_encode().indices.fill_null(-1)
        strata[train] = found.to_numpy()
        return strata, *memberships(strata)
    labelled = np.flatnonzero(column.is_valid().to_numpy())
    values = label_array(column.drop_null(), labels, config.label_kind)
    strata[labelled] = strata_of(values)
    rows, classes = memberships(values)
    return strata, labelled[rows], classes


def _in_order(keep: npt.NDArray[np.bool_], split: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    """Numbers of the kept rows, train before validation: of two that are alike the training copy stays, so that held-out text is unseen."""
    return np.concatenate([np.flatnonzero(keep & (split == which)) for which in (0, 1)])


def _near_duplicates(columns: pa.Table, numbers: npt.NDArray[np.int64], config: NearDuplicateConfig) -> dict[int, int]:
    """Row to drop to the row that is kept for it."""
    chosen = columns.select(["signature", "bands"]).take(pa.array(numbers))
    # Every row that got this far was signed, so the lists are all of one length.
    signed = np.concatenate([chunk.flatten().to_numpy() for chunk in chosen.column("signature").chunks]).reshape(len(numbers), -1)
    keys = np.concatenate([chunk.flatten().to_numpy() for chunk in chosen.column("bands").chunks]).reshape(len(numbers), -1)
    found = clusters(keys, verifier(signed, config.threshold))
    return {int(numbers[dropped]): int(numbers[kept]) for dropped, kept in found.pairs}


def _repeated_paragraphs(columns: pa.Table, keep: npt.NDArray[np.bool_], split: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    """Of every paragraph digest, whether an earlier kept document has it, too; train counts as earlier than validation."""
    chunks = [chunk.flatten() for chunk in columns.column("paragraphs").chunks]
    digests = _digests(pa.chunked_array(chunks, pa.binary(16)))
    documents = np.repeat(np.arange(len(columns)), pc.list_value_length(columns.column("paragraphs")).to_numpy())
    ranks = np.full(len(columns), -1)
    order = _in_order(keep, split)
    ranks[order] = np.arange(len(order))
    places = np.flatnonzero(keep[documents])
    places = places[np.argsort(ranks[documents[places]], kind="stable")]
    dropped = np.zeros(len(digests), dtype=np.bool_)
    dropped[places] = seen_in_earlier_documents(ParagraphDigests(digests[places], ranks[documents[places]]))
    return dropped


def _frequent_lines(columns: pa.Table, keep: npt.NDArray[np.bool_], config: BoilerplateConfig | None) -> npt.NDArray[np.uint64]:
    """Digests, ascending, of the lines that stand in too many of the kept documents."""
    if config is None or config.max_line_documents is None:
        return np.zeros(0, dtype=np.uint64)
    chunks = columns.column("lines").filter(pa.array(keep)).chunks
    digests, documents = np.unique(np.concatenate([chunk.flatten().to_numpy() for chunk in chunks]), return_counts=True)
    return np.asarray(digests[documents > config.max_line_documents], dtype=np.uint64)


def _within_texts(columns: pa.Table, keep: npt.NDArray[np.bool_]) -> dict[str, int]:
    """What was removed or replaced in the texts of kept rows, by kind: lines, and personal data."""
    counts: Counter[str] = Counter()
    for found in columns.column("counts").filter(pa.array(keep)).drop_null().to_pylist():
        counts.update(json.loads(found))
    return dict(sorted(counts.items()))


def _digests(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """(N, 2) of N times 16 bytes."""
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    if not chunks:
        return np.zeros((0, 2), dtype=np.uint64)
    whole = np.concatenate(
        [np.frombuffer(chunk.buffers()[1], np.uint64)[2 * chunk.offset : 2 * (chunk.offset + len(chunk))] for chunk in chunks]
    )
    return whole.reshape(-1, 2)


def _numpy(columns: pa.Table, name: str) -> npt.NDArray[np.generic]:
    values: npt.NDArray[np.generic] = columns.column(name).to_numpy()
    return values


def _count(stage: str, rows_in: int, keep: npt.NDArray[np.bool_], dropped: dict[str, int]) -> StageCount:
    return StageCount(stage=stage, rows_in=rows_in, rows_out=int(keep.sum()), dropped={reason: n for reason, n in dropped.items() if n})


def places(rows_of_pieces: Sequence[int], numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Row numbers as (piece, row in it)."""
    ends = np.cumsum(rows_of_pieces)
    found = []
    for number in numbers:
        piece = int(np.searchsorted(ends, number, side="right"))
        found.append((piece, number - (int(ends[piece - 1]) if piece else 0)))
    return found
