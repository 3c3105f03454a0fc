"""Labelled texts, split and checked, ready for a classifier: from a ``data build`` folder or straight from files.

Holds texts and labels in memory; knows nothing of tokens. What labels are is ``labels.py``, how files are read ``sources.py``, who is in
which split ``splits.py``, what may be wrong with rows ``checks.py``; all meet here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.checks import CheckedRows, check
from corpus.config import LabelledDataConfig
from corpus.fields import fields_of
from corpus.findings import Finding, labelled_rows, not_in_train, refuse
from corpus.labelled_config import ChecksConfig, LabelKind
from corpus.labels import (
    LABELLED_SPLITS,
    LabelledSplit,
    check_classes,
    fingerprint,
    in_order,
    label_array,
    memberships,
    rows_with_unknown,
    stored_forms,
    strata_of,
)
from corpus.manifest import is_build, read_manifest, verify
from corpus.sources import read_files
from corpus.splits import TEST, TRAIN, Groups, Shares, assign, marked_splits, require_whole_groups
from foundation.errors import DataError
from foundation.progress import say

__all__ = ["LABELLED_SPLITS", "LabelledData", "LabelledSplit", "load_labelled"]


@dataclass(frozen=True, eq=False)
class LabelledData:
    """All splits of one labelled data set; ``test`` may be empty."""

    train: LabelledSplit
    validation: LabelledSplit
    test: LabelledSplit
    labels: tuple[str, ...]
    """Class names, in index order; empty where labels are numbers."""
    fingerprint: str
    """SHA-256 over class names, texts and labels of every split."""
    kind: LabelKind = "single"
    findings: tuple[Finding, ...] = ()
    """What the checks warn of."""
    trains_on_validation: bool = False
    """Whether the validation rows are among those of ``train``, so that figures of them flatter."""

    @property
    def has_pairs(self) -> bool:
        """Whether every row has a second text."""
        return self.train.pairs is not None


class _Rows(NamedTuple):
    """Rows that were read: string forms, not arrays yet."""

    table: pa.Table
    """``id``, ``text``, ``label`` and, where there are pairs, ``pair``."""
    split: npt.NDArray[np.int8]
    """(N,) index into ``LABELLED_SPLITS``."""
    labels: tuple[str, ...]
    """Class names, in index order."""
    kind: LabelKind

    @property
    def has_pairs(self) -> bool:
        return "pair" in self.table.column_names

    def splits(self) -> dict[str, LabelledSplit]:
        pairs = self.table.column("pair").to_pylist() if self.has_pairs else None
        values = label_array(self.table.column("label"), self.labels, self.kind)
        rows = LabelledSplit(self.table.column("text").to_pylist(), values, self.table.column("id").to_pylist(), pairs)
        return {name: rows.take(np.flatnonzero(self.split == number)) for number, name in enumerate(LABELLED_SPLITS)}


def load_labelled(config: LabelledDataConfig, *, holds_back: bool = True) -> LabelledData:
    """Read, check and split labelled rows. Data too small to hold rows back validates on its training rows, and says so.

    ``holds_back`` is False where nothing is to be trained: then there may be no validation rows.

    Raises:
        DataError: A file or column is missing, a file is damaged, a row lacks text or label, there is nothing to tell apart, test holds a
            label that train does not, or another check is to refuse what it found.
    """
    folder = Path(config.train)
    rows = _of_build(folder) if folder.is_dir() and is_build(folder) else _of_files(config)
    if config.test is not None:
        rows = _with_test(rows, config.test, config)
    splits, labels = rows.splits(), rows.labels
    checked = {name: CheckedRows.of(splits[name]) for name in LABELLED_SPLITS if len(splits[name]) or name == "train"}
    findings = refuse(check(checked, labels, config.checks), config.train)
    flatters = False
    if holds_back and not len(splits["validation"]):
        say(f"warning: {config.train}: no rows to hold back for validation; the training rows are used, which flatters every figure")
        splits["validation"], flatters = splits["train"], True
    elif config.train_on == "train_and_validation":
        held = splits["validation"]
        say(f"warning: {config.train}: trains on the {len(held):,} validation rows as well, which flatters every figure but of test rows")
        splits["train"], flatters = splits["train"].followed_by(held), True
    marked = fingerprint(splits, labels)
    return LabelledData(splits["train"], splits["validation"], splits["test"], labels, marked, rows.kind, findings, flatters)


def _of_files(config: LabelledDataConfig) -> _Rows:
    table = _read(config.train, config)
    ids, found = table.column("id").to_pylist(), table.column("label")
    marked = np.full(len(table), TRAIN, dtype=np.int8)
    if config.split_column is not None:
        marked = marked_splits(table.column("marked").to_pylist(), ids, config.train)
        if config.test is not None and (marked == TEST).any():
            raise DataError(f"{config.train}: split_column marks test rows, and data.test names a file; leave one of them out")
        if not (marked == TRAIN).any():
            raise DataError(f"{config.train}: split_column marks no row as train; expected at least some")
    labels = check_classes(found.filter(pa.array(marked == TRAIN)), config.label_kind, config.train)
    labels = _known(found, ids, labels, config.label_kind, config.checks, config.train)
    values = label_array(found, labels, config.label_kind)
    groups = None
    if config.group_column is not None:
        keys = table.column("group").combine_chunks().dictionary_encode().indices.fill_null(-1)
        groups = Groups(keys.to_numpy().astype(np.int64), *memberships(values))
    split = assign(marked, strata_of(values), Shares(config.validation_fraction, config.test_fraction), config.split_seed, groups)
    if groups is not None:
        require_whole_groups(split, groups.of_row, ids, config.train)
    return _Rows(table, split, labels, config.label_kind)


def _of_build(folder: Path) -> _Rows:
    manifest = read_manifest(folder)
    if not manifest.labelled:
        raise DataError(f"{folder}: was built from unlabelled text only; give a source with a label_column, or a labelled file")
    names = [f"labelled/{split}.arrow" for split in LABELLED_SPLITS]
    verify(folder, manifest, names)
    tables = []
    for name in names:
        with pa.memory_map(str(folder / name)) as source:
            tables.append(pa.ipc.open_file(source).read_all())
    split = np.repeat(np.arange(len(tables), dtype=np.int8), [len(table) for table in tables])
    whole = pa.concat_tables(tables)
    labels = stored_forms(whole.column("label"), manifest.labels, manifest.label_kind, f"{folder}/labelled")
    table = whole.select(["id", "text", *(["pair"] if manifest.has_pairs else [])]).append_column("label", labels)
    return _Rows(table, split, manifest.labels, manifest.label_kind)


def _with_test(rows: _Rows, path: str, config: LabelledDataConfig) -> _Rows:
    """``rows`` with those of ``path`` as its test split; a file has the columns that train has."""
    if is_build(Path(path)):
        found = _of_build(Path(path))
        if (found.kind, found.has_pairs) != (rows.kind, rows.has_pairs):
            raise DataError(f"{path}: holds {_described(found)}, but {config.train} holds {_described(rows)}")
        table = found.table.filter(pa.array(found.split == TEST))
    else:
        own = {"label_kind": rows.kind, "pair_column": "pair" if rows.has_pairs else None, "text_column": "text", "label_column": "label"}
        columns = {"split_column": None, "group_column": None} | (own if is_build(Path(config.train)) else {})
        table = _read(path, config.model_copy(update=columns))
    labels = _known(table.column("label"), table.column("id").to_pylist(), rows.labels, rows.kind, config.checks, path)
    columns = rows.table.column_names
    kept = pa.array(rows.split != TEST)
    whole = pa.concat_tables([rows.table.filter(kept).select(columns), table.select(columns)])
    return _Rows(whole, np.concatenate([rows.split[rows.split != TEST], np.full(len(table), TEST, dtype=np.int8)]), labels, rows.kind)


def _read(path: str, config: LabelledDataConfig) -> pa.Table:
    table = read_files(path, text_column=config.text_column, more=fields_of(config))
    return labelled_rows(table, path, texts=config.checks.empty_texts)


def _known(
    found: pa.ChunkedArray, ids: Sequence[str], labels: tuple[str, ...], kind: LabelKind, checks: ChecksConfig, where: str
) -> tuple[str, ...]:
    """Class names with those that train does not have, unless these are refused."""
    rows, unknown = rows_with_unknown(found, labels, kind)
    if unknown and checks.unseen_labels == "refuse":
        raise DataError(f"{where}: {not_in_train(unknown, [ids[row] for row in rows], labels)}")
    return in_order([*labels, *unknown]) if unknown else labels


def _described(rows: _Rows) -> str:
    return f"label_kind: {rows.kind}{' with pairs' if rows.has_pairs else ''}"
