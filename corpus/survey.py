"""What would be read from files: columns, counts, the first rows, lengths, labels and what is odd about them. For looking before building;
writes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.checks import CheckedRows, check, text_keys
from corpus.config import SourceConfig
from corpus.files import files_of
from corpus.labelled_config import ChecksConfig, LabelKind
from corpus.labels import LABELLED_SPLITS, class_counts, classes_in, in_order, label_array
from corpus.pieces import read_tables
from corpus.sources import ROWS_PER_TABLE, columns_of
from corpus.tokenizer import encode, open_tokenizer

_PERCENTILES = (50, 90, 99, 100)
_NUMBER_PERCENTILES = (0, 10, 50, 90, 100)
_SHOWN_CHARACTERS = 100
_SHOWN_FILES = 8
_SHOWN_LABELS = 12


@dataclass(frozen=True)
class Survey:
    """What was found."""

    files: dict[str, int]
    """File to rows."""
    columns: tuple[str, ...]
    """Of the first file; text files have none."""
    rows: int
    empty: int
    """Rows without text."""
    characters: dict[str, int]
    """Percentile to length in characters."""
    tokens: dict[str, int] | None
    """Percentile to length in tokens, special tokens not counted."""
    first: tuple[dict[str, Any], ...]
    """The first rows."""
    labels: dict[str, int] | None = None
    """Class to rows, the most frequent first; a row with several classes counts for each. None without classes."""
    numbers: dict[str, float] | None = None
    """Percentile to label, where labels are numbers."""
    unlabelled: int = 0
    """Rows without a label where there is a label column; not looked at by the checks."""
    splits: dict[str, int] | None = None
    """Split to labelled rows; all are train where no column says it."""
    findings: tuple[dict[str, Any], ...] = ()
    """What the checks of labelled rows found: kind, severity, message, count, first rows."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        files = "1 file" if len(self.files) == 1 else f"{len(self.files):,} files"
        lines = [f"{self.rows:,} rows in {files}, {self.empty:,} of them without text"]
        lines += [f"  {name}: {rows:,}" for name, rows in list(self.files.items())[:_SHOWN_FILES]]
        lines += [f"  and {len(self.files) - _SHOWN_FILES} more"] if len(self.files) > _SHOWN_FILES else []
        lines += [f"columns:    {', '.join(self.columns)}"] if self.columns else []
        lines.append(f"characters: {_percentiles_text(self.characters)}")
        if self.tokens is not None:
            lines.append(f"tokens:     {_percentiles_text(self.tokens)}")
        if self.labels is not None:
            shown = ", ".join(f"{label} {count:,}" for label, count in list(self.labels.items())[:_SHOWN_LABELS])
            more = f", and {len(self.labels) - _SHOWN_LABELS} more" if len(self.labels) > _SHOWN_LABELS else ""
            lines.append(f"labels:     {shown}{more}")
        if self.numbers is not None:
            told = ", ".join(f"{p} % up to {number:g}" for p, number in self.numbers.items() if p not in ("0", "100"))
            lines.append(f"labels:     {self.numbers['0']:g} to {self.numbers['100']:g}; {told}")
        lines += [f"no label:   {self.unlabelled:,} rows"] if self.unlabelled else []
        if self.splits is not None and len(self.splits) > 1:
            lines.append(f"splits:     {', '.join(f'{name} {rows:,}' for name, rows in self.splits.items())}")
        lines += [f"{finding['kind']}: {finding['message']}" for finding in self.findings]
        for row in self.first:
            text = " ".join(" | ".join([row["text"] or "", *([row["pair"] or ""] if "pair" in row else [])]).split())
            label = "" if row["label"] is None else f" [{row['label']}]"
            lines.append(f"  {row['id']}{label}: {text[:_SHOWN_CHARACTERS]}{'…' if len(text) > _SHOWN_CHARACTERS else ''}")
        return "\n".join(lines)


def survey(source: SourceConfig, *, tokenizer_folder: Path | None, shown: int) -> Survey:
    """Read everything once; texts don't stay, so a row takes some dozens of bytes.

    Raises:
        DataError: As reading does.
        EncoderError: No usable tokenizer.
    """
    tokenizer = None if tokenizer_folder is None else open_tokenizer(tokenizer_folder)
    files: dict[str, int] = {}
    lengths: list[int] = []
    tokens: list[int] = []
    labelled = _Labelled(source.label_kind, has_pairs=source.pair_column is not None)
    first: list[dict[str, Any]] = []
    empty = 0
    found = files_of(str(source.path), source.format)
    for file in found:
        for table in read_tables("", source, file, rows=ROWS_PER_TABLE):
            texts = [text or "" for text in table.column("text").to_pylist()]
            files[file.name] = files.get(file.name, 0) + len(texts)
            lengths += map(len, texts)
            empty += sum(not text.strip() for text in texts)
            if source.is_labelled:
                labelled.add(table)
            if tokenizer is not None:
                tokens += map(len, encode(tokenizer.serialised, texts))
            if len(first) < shown:
                columns = ["id", "text", *(["pair"] if source.pair_column else []), "label"]
                first += table.select(columns).slice(0, shown - len(first)).to_pylist()
    return Survey(
        files=files,
        columns=tuple(columns_of(found[0], source.format)),
        rows=len(lengths),
        empty=empty,
        characters=_percentiles(lengths),
        tokens=None if tokenizer is None else _percentiles(tokens),
        first=tuple(first),
        **(labelled.results() if source.is_labelled else {}),
    )


class _Labelled:
    """Gathers what is told of labelled rows."""

    def __init__(self, kind: LabelKind, *, has_pairs: bool) -> None:
        self._kind = kind
        self._has_pairs = has_pairs
        self._unlabelled = 0
        self._ids: list[str] = []
        self._forms: list[pa.Array] = []
        self._keys: list[Any] = []
        self._empty: list[Any] = []
        self._splits: list[str] = []

    def add(self, table: pa.Table) -> None:
        """Rows without a label are counted and looked at no further."""
        has_label = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(table.column("label")), ""), False)
        labelled = table.filter(has_label)
        self._unlabelled += len(table) - len(labelled)
        texts = [text or "" for text in labelled.column("text").to_pylist()]
        pairs = [pair or "" for pair in labelled.column("pair").to_pylist()] if self._has_pairs else None
        self._ids += labelled.column("id").to_pylist()
        self._forms += labelled.column("label").chunks
        self._keys.append(text_keys(texts, pairs))
        self._empty.append(np.array([not text.strip() for text in texts], dtype=np.bool_))
        self._splits += labelled.column("split").to_pylist()

    def results(self) -> dict[str, Any]:
        """The fields of ``Survey`` that are about labels."""
        if not self._ids:
            return {"labels": {}, "unlabelled": self._unlabelled}
        forms = pa.chunked_array(self._forms, pa.string())
        names = in_order(classes_in(forms, self._kind))
        values = label_array(forms, names, self._kind)
        keys, empty, splits = np.concatenate(self._keys), np.concatenate(self._empty), np.array(self._splits)
        checked = {}
        for name in LABELLED_SPLITS:
            rows = np.flatnonzero(splits == name)
            if len(rows) or name == "train":
                checked[name] = CheckedRows([self._ids[row] for row in rows.tolist()], keys[rows], empty[rows], values[rows])
        mix = sorted(zip(names, class_counts(values, len(names)).tolist(), strict=True), key=lambda item: -item[1])
        return {
            "labels": dict(mix) if self._kind != "number" else None,
            "numbers": {str(p): float(np.percentile(values, p)) for p in _NUMBER_PERCENTILES} if self._kind == "number" else None,
            "unlabelled": self._unlabelled,
            "splits": {name: len(rows) for name, rows in checked.items()},
            # Looking refuses nothing.
            "findings": tuple(
                finding.as_json() for finding in check(checked, names, ChecksConfig(empty_texts="warn", unseen_labels="warn"))
            ),
        }


def _percentiles(lengths: list[int]) -> dict[str, int]:
    return {str(p): int(found) for p, found in zip(_PERCENTILES, np.percentile(lengths, _PERCENTILES), strict=True)}


def _percentiles_text(found: dict[str, int]) -> str:
    return ", ".join(f"{'longest' if p == '100' else f'{p} % up to'} {length:,}" for p, length in found.items())
