"""Labelled texts, split and checked, ready for a classifier: from a ``data build`` folder or straight from files.

Holds texts and class indices in memory; knows nothing of tokens. How files are read is ``sources.py``; what is checked is here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.config import LabelledDataConfig
from corpus.manifest import is_build, read_manifest, verify
from corpus.sources import labelled_rows, read_files
from corpus.splits import validation_rows
from foundation.errors import DataError
from foundation.progress import say

LABELLED_SPLITS = ("train", "validation", "test")
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class LabelledSplit:
    """Rows of one split. N = rows."""

    texts: list[str]
    labels: npt.NDArray[np.int64]
    """(N,) indices into ``LabelledData.labels``."""
    ids: list[str]
    """Where each row came from: file and row number."""

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, eq=False)
class LabelledData:
    """All splits of one labelled data set; ``test`` may be empty."""

    train: LabelledSplit
    validation: LabelledSplit
    test: LabelledSplit
    labels: tuple[str, ...]
    """Class names, in index order."""
    fingerprint: str
    """SHA-256 over class names, texts and labels of every split."""


def load_labelled(config: LabelledDataConfig) -> LabelledData:
    """Read, check and split labelled rows. Data too small to hold rows back validates on its training rows, and says so.

    Raises:
        DataError: A file or column is missing, a file is damaged, a row lacks text or label, there is one class only, or test
            holds a label that train does not.
    """
    folder = Path(config.train)
    built = folder.is_dir() and is_build(folder)
    splits, labels = _from_build(folder) if built else _from_files(config)
    if config.test is not None:
        splits["test"] = _read_test(config.test, "text" if built else config.text_column, "label" if built else config.label_column, labels)
    if not len(splits["validation"]):
        say(f"warning: {config.train}: no rows to hold back for validation; the training rows are used, which flatters every figure")
        splits["validation"] = splits["train"]
    return LabelledData(splits["train"], splits["validation"], splits["test"], labels, fingerprint(splits, labels))


def label_names(found: Sequence[str], where: str) -> tuple[str, ...]:
    """Class names in index order: numbers by value, else by spelling.

    Raises:
        DataError: Fewer than two classes.
    """
    names = set(found)
    if len(names) < 2:
        raise DataError(f"{where}: every row has the label {next(iter(names))!r}; a classifier needs at least two classes")
    numeric = all(name.lstrip("-").isdecimal() for name in names)
    return tuple(sorted(names, key=int) if numeric else sorted(names))


def label_indices(found: Sequence[str], ids: Sequence[str], labels: Sequence[str], where: str) -> npt.NDArray[np.int64]:
    """(N,) class index of each label.

    Raises:
        DataError: A label that is not among ``labels``; names rows.
    """
    index = {name: number for number, name in enumerate(labels)}
    unknown = [row for row, name in enumerate(found) if name not in index]
    if unknown:
        names = sorted({found[row] for row in unknown})
        rows = ", ".join(ids[row] for row in unknown[:_SHOWN]) + (", …" if len(unknown) > _SHOWN else "")
        raise DataError(
            f"{where}: {', '.join(map(repr, names[:_SHOWN]))}: not a label in train ({len(unknown)} rows: {rows}); "
            f"train has {', '.join(labels)}"
        )
    return np.array([index[name] for name in found], dtype=np.int64)


def fingerprint(splits: dict[str, LabelledSplit], labels: Sequence[str]) -> str:
    """SHA-256 over the content of labelled data, whatever files it came from."""
    digest = hashlib.sha256(repr(tuple(labels)).encode())
    for name in LABELLED_SPLITS:
        split = splits[name]
        digest.update(f"{name} {len(split)}\n".encode())
        for text, label in zip(split.texts, split.labels, strict=True):
            encoded = text.encode()
            digest.update(f"{label} {len(encoded)}\n".encode() + encoded)
    return digest.hexdigest()


def _from_files(config: LabelledDataConfig) -> tuple[dict[str, LabelledSplit], tuple[str, ...]]:
    table = labelled_rows(read_files(config.train, text_column=config.text_column, label_column=config.label_column), config.train)
    found = table.column("label").to_pylist()
    labels = label_names(found, config.train)
    rows = _split_of(table, label_indices(found, table.column("id").to_pylist(), labels, config.train))
    held_back = validation_rows(rows.labels, config.validation_fraction, config.split_seed)
    return {
        "train": _take(rows, ~held_back),
        "validation": _take(rows, held_back),
        "test": _take(rows, np.zeros(len(rows), dtype=np.bool_)),
    }, labels


def _from_build(folder: Path) -> tuple[dict[str, LabelledSplit], tuple[str, ...]]:
    manifest = read_manifest(folder)
    if not manifest.labels:
        raise DataError(f"{folder}: was built from unlabelled text only; give a source with a label_column, or a labelled file")
    names = {split: f"labelled/{split}.arrow" for split in LABELLED_SPLITS}
    verify(folder, manifest, names.values())
    splits = {}
    for split, name in names.items():
        with pa.memory_map(str(folder / name)) as source:
            table = pa.ipc.open_file(source).read_all()
        splits[split] = _split_of(table, table.column("label").to_numpy().astype(np.int64))
    return splits, manifest.labels


def _read_test(path: str, text_column: str, label_column: str, labels: tuple[str, ...]) -> LabelledSplit:
    if is_build(Path(path)):
        splits, names = _from_build(Path(path))
        split = splits["test"]
        return LabelledSplit(split.texts, label_indices([names[i] for i in split.labels], split.ids, labels, path), split.ids)
    table = labelled_rows(read_files(path, text_column=text_column, label_column=label_column), path)
    return _split_of(table, label_indices(table.column("label").to_pylist(), table.column("id").to_pylist(), labels, path))


def _split_of(table: pa.Table, labels: npt.NDArray[np.int64]) -> LabelledSplit:
    return LabelledSplit(table.column("text").to_pylist(), labels, table.column("id").to_pylist())


def _take(rows: LabelledSplit, chosen: npt.NDArray[np.bool_]) -> LabelledSplit:
    numbers = np.flatnonzero(chosen)
    return LabelledSplit([rows.texts[i] for i in numbers], rows.labels[numbers], [rows.ids[i] for i in numbers])
