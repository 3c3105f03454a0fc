"""What would be read from files: columns, counts, the first rows, lengths. For looking before building; writes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corpus.files import files_of
from corpus.sources import columns_of, read_file
from corpus.tokenizer import encode, open_tokenizer

_PERCENTILES = (50, 90, 99, 100)
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
    labels: dict[str, int] | None
    """Label to rows, the most frequent first."""
    first: tuple[dict[str, Any], ...]
    """The first rows."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        lines = [f"{self.rows:,} rows in {len(self.files)} files, {self.empty:,} of them without text"]
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
        for row in self.first:
            text = " ".join((row["text"] or "").split())
            label = "" if row["label"] is None else f" [{row['label']}]"
            lines.append(f"  {row['id']}{label}: {text[:_SHOWN_CHARACTERS]}{'…' if len(text) > _SHOWN_CHARACTERS else ''}")
        return "\n".join(lines)


def survey(path: str, *, text_column: str, label_column: str | None, tokenizer_folder: Path | None, shown: int) -> Survey:
    """Read everything once, in bounded memory.

    Raises:
        DataError: As reading does.
        EncoderError: No usable tokenizer.
    """
    tokenizer = None if tokenizer_folder is None else open_tokenizer(tokenizer_folder)
    files: dict[str, int] = {}
    lengths: list[int] = []
    tokens: list[int] = []
    labels: Counter[str] = Counter()
    first: list[dict[str, Any]] = []
    empty = 0
    found = files_of(path)
    for file in found:
        for table in read_file(file, text_column=text_column, label_column=label_column):
            texts = [text or "" for text in table.column("text").to_pylist()]
            files[file.name] = files.get(file.name, 0) + len(texts)
            lengths += map(len, texts)
            empty += sum(not text.strip() for text in texts)
            labels.update(str(label) for label in table.column("label").to_pylist() if label is not None)
            if tokenizer is not None:
                tokens += map(len, encode(tokenizer.serialised, texts))
            if len(first) < shown:
                first += table.slice(0, shown - len(first)).to_pylist()
    return Survey(
        files=files,
        columns=tuple(columns_of(found[0])),
        rows=len(lengths),
        empty=empty,
        characters=_percentiles(lengths),
        tokens=None if tokenizer is None else _percentiles(tokens),
        labels=None if label_column is None else dict(labels.most_common()),
        first=tuple(first),
    )


def _percentiles(lengths: list[int]) -> dict[str, int]:
    return {str(p): int(found) for p, found in zip(_PERCENTILES, np.percentile(lengths, _PERCENTILES), strict=True)}


def _percentiles_text(found: dict[str, int]) -> str:
    return ", ".join(f"{'longest' if p == '100' else f'{p} % up to'} {length:,}" for p, length in found.items())
