"""Labelled rows in memory, whatever their labels are: one class, a list of classes, or a number. N = rows, C = classes.

Labels come in the string forms of ``fields.py`` and become arrays here. Knows nothing of files (``labelled.py``), of splits (``splits.py``)
and of what is wrong with rows (``checks.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corpus.labelled_config import LabelKind
from foundation.errors import DataError

LABELLED_SPLITS = ("train", "validation", "test")
_NUMBER_STRATA = 10

LabelArray = npt.NDArray[np.int64] | npt.NDArray[np.bool_] | npt.NDArray[np.float64]
"""(N,) int64 class indices, (N, C) bool which classes apply, or (N,) float64 numbers."""


@dataclass(frozen=True, eq=False)
class LabelledSplit:
    """Rows of one split. N = rows."""

    texts: list[str]
    labels: LabelArray
    """Indices into ``LabelledData.labels`` (N,), or flags for each of them (N, C), or numbers (N,)."""
    ids: list[str]
    """Where each row came from: file and row number."""
    pairs: list[str] | None = None
    """A second text for each row; None where there is none."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, numbers: npt.NDArray[np.int64]) -> LabelledSplit:
        """Some of the rows, in the order of ``numbers``."""
        rows = numbers.tolist()
        pairs = None if self.pairs is None else [self.pairs[i] for i in rows]
        return LabelledSplit([self.texts[i] for i in rows], self.labels[numbers], [self.ids[i] for i in rows], pairs)

    def followed_by(self, other: LabelledSplit) -> LabelledSplit:
        """These rows, then those of ``other``, whose labels and texts are of the same form."""
        pairs = None if self.pairs is None or other.pairs is None else [*self.pairs, *other.pairs]
        return LabelledSplit([*self.texts, *other.texts], np.concatenate([self.labels, other.labels]), [*self.ids, *other.ids], pairs)


def label_names(found: Iterable[str], where: str) -> tuple[str, ...]:
    """Class names in index order: numbers by value, else by spelling.

    Raises:
        DataError: Fewer than two classes.
    """
    names = set(found)
    if len(names) < 2:
        raise DataError(f"{where}: every row has the label {next(iter(names))!r}; a classifier needs at least two classes")
    return in_order(names)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Numbers by value, else by spelling."""
    found = set(names)
    numeric = all(name.lstrip("-").isdecimal() for name in found)
    return tuple(sorted(found, key=int) if numeric else sorted(found))


def classes_in(found: pa.ChunkedArray, kind: LabelKind) -> set[str]:
    """The classes that stand in a column of labels; none for numbers."""
    if kind == "number":
        return set()
    distinct = found.unique().drop_null().to_pylist()
    return set(distinct) if kind == "single" else {name for form in distinct for name in json.loads(form)}


def check_classes(found: pa.ChunkedArray, kind: LabelKind, where: str) -> tuple[str, ...]:
    """Class names of training rows, in index order.

    Raises:
        DataError: There is nothing to tell apart: one class only, lists that are all empty, or one number only.
    """
    names = classes_in(found, kind)
    if kind == "single":
        return label_names(names, where)
    if kind == "list" and not names:
        raise DataError(f"{where}: every list of classes is empty; a classifier needs at least one class")
    if kind == "number" and len(found.unique()) < 2:
        raise DataError(f"{where}: every row has the number {found[0].as_py()}; there is nothing to learn from it")
    return in_order(names)


def label_array(found: pa.ChunkedArray, names: Sequence[str], kind: LabelKind) -> LabelArray:
    """Labels as an array; every class must be among ``names``."""
    if kind == "number":
        return np.asarray(found.cast(pa.float64()).to_numpy(), dtype=np.float64)
    index = {name: number for number, name in enumerate(names)}
    encoded = found.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    distinct = encoded.dictionary.to_pylist()
    if kind == "single":
        indices = np.array([index[name] for name in distinct], dtype=np.int64)
        return np.asarray(indices[codes])
    flags = np.zeros((len(distinct), len(names)), dtype=np.bool_)
    for row, form in enumerate(distinct):
        flags[row, [index[name] for name in json.loads(form)]] = True
    return np.asarray(flags[codes])


def stored(found: pa.ChunkedArray, names: Sequence[str], kind: LabelKind) -> pa.Array:
    """Labels as a build folder stores them: class indices, lists of class indices, or numbers; see ``stored_type``."""
    labels = label_array(found, names, kind)
    if kind != "list":
        return pa.array(labels, stored_type(kind))
    rows, classes = memberships(labels)
    offsets = np.searchsorted(rows, np.arange(len(labels) + 1))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(classes, pa.int32()))


def stored_type(kind: LabelKind) -> pa.DataType:
    """The Arrow type of ``stored``."""
    return {"single": pa.int32(), "list": pa.list_(pa.int32()), "number": pa.float64()}[kind]


def stored_forms(column: pa.ChunkedArray, names: Sequence[str], kind: LabelKind, where: str) -> pa.ChunkedArray:
    """The string forms of what ``stored`` gave, read from ``where``.

    Raises:
        DataError: A class index is out of range.
    """
    if kind == "number":
        return column.cast(pa.string())
    numbers = column if kind == "single" else pc.list_flatten(column)
    is_known = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, len(names))).fill_null(False)
    if not pc.all(is_known, min_count=0).as_py():
        first = numbers.filter(pc.invert(is_known))[0].as_py()
        raise DataError(
            f"{where}: a row has class number {first}, but manifest.json names {len(names)} classes, from 0 on: {', '.join(names)}; "
            "build the data again with `raybert data build --replace`"
        )
    if kind == "single":
        return pa.chunked_array([pa.array(names, pa.string()).take(column.combine_chunks())])
    forms = [json.dumps(sorted(names[i] for i in row), ensure_ascii=False) for row in column.to_pylist()]
    return pa.chunked_array([pa.array(forms, pa.string())])


def rows_with_unknown(found: pa.ChunkedArray, names: Sequence[str], kind: LabelKind) -> tuple[list[int], list[str]]:
    """Numbers of the rows that have a class which is not among ``names``, and those classes, sorted."""
    unknown = sorted(classes_in(found, kind) - set(names))
    if not unknown:
        return [], []
    wanted = set(unknown)
    if kind == "single":
        hits = pc.is_in(found, value_set=pa.array(unknown, pa.string()))
    else:
        forms = [form for form in found.unique().to_pylist() if wanted & set(json.loads(form))]
        hits = pc.is_in(found, value_set=pa.array(forms, pa.string()))
    return np.flatnonzero(hits.to_numpy()).tolist(), unknown


def memberships(labels: LabelArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(M,) rows and (M,) classes: which row has which class; nothing for numbers, and nothing of rows whose class is -1."""
    if labels.dtype == np.float64:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if labels.ndim == 2:
        rows, classes = np.nonzero(labels)
        return rows.astype(np.int64), classes.astype(np.int64)
    rows = np.flatnonzero(labels >= 0)
    return rows, labels[rows].astype(np.int64)


def strata_of(labels: LabelArray) -> npt.NDArray[np.int64]:
    """(N,) what a row is for a stratified draw: its class; of a list its rarest class (C when it is empty), so that rare classes reach
    every split; of a number its tenth of all numbers."""
    if labels.dtype == np.float64:
        borders = np.quantile(labels, np.linspace(0, 1, _NUMBER_STRATA + 1)[1:-1]) if len(labels) else np.zeros(0)
        return np.searchsorted(borders, labels, side="right").astype(np.int64)
    if labels.ndim == 1:
        return labels.astype(np.int64)
    counts = labels.sum(axis=0)
    rarest_first = np.argsort(counts, kind="stable")
    ranked = labels[:, rarest_first]
    strata = np.full(len(labels), labels.shape[1], dtype=np.int64)
    some = ranked.any(axis=1)
    strata[some] = rarest_first[ranked[some].argmax(axis=1)]
    return strata


def class_counts(labels: LabelArray, classes: int) -> npt.NDArray[np.int64]:
    """(C,) rows of each class."""
    return np.bincount(memberships(labels)[1], minlength=classes)


def shown(labels: LabelArray, row: int, names: Sequence[str]) -> str:
    """One row's label for people."""
    if labels.dtype == np.float64:
        return f"{labels[row]:g}"
    if labels.ndim == 1:
        return names[int(labels[row])]
    return ", ".join(names[i] for i in np.flatnonzero(labels[row]).tolist()) or "none"


def fingerprint(splits: Mapping[str, LabelledSplit], names: Sequence[str]) -> str:
    """SHA-256 over the content of labelled data, whatever files it came from."""
    digest = hashlib.sha256(repr(tuple(names)).encode())
    for name in LABELLED_SPLITS:
        split = splits[name]
        digest.update(f"{name} {len(split)}\n".encode())
        pairs: Sequence[str | None] = split.pairs if split.pairs is not None else [None] * len(split)
        for text, label, pair in zip(split.texts, split.labels, pairs, strict=True):
            encoded = text.encode()
            digest.update(f"{_exactly(label)} {len(encoded)}\n".encode() + encoded)
            if pair is not None:
                digest.update(f"\npair {len(pair.encode())}\n".encode() + pair.encode())
    return digest.hexdigest()


def _exactly(label: Any) -> str:
    if isinstance(label, np.ndarray):
        return " ".join(map(str, ["list", *np.flatnonzero(label)]))
    return repr(float(label)) if isinstance(label, np.floating) else str(label)
