"""Reads texts from files: one row a text, with an id that says which file and row it came from.

Every refusal names the file and, where there is one, the line, byte or row. Knows nothing of cleaning, splits or what rows are for.
Built-in sources are ``movie_reviews.py``; both meet in ``build.py``.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from corpus.config import SourceFormat
from foundation.errors import DataError

SUFFIXES: dict[str, SourceFormat] = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_SHOWN = 5


def read_files(path: str, *, text_column: str, label_column: str | None = None, file_format: SourceFormat = "auto") -> pa.Table:
    """Read a file, a folder or a glob.

    Args:
        path: What to read.
        text_column: Column with the text; text files have none, their lines are the texts.
        label_column: Column with the class; None reads no labels.
        file_format: ``auto`` goes by each file's suffix.

    Returns:
        Columns ``id``, ``text`` and ``label`` (all strings, null where the file has none), in file and row order.

    Raises:
        DataError: Nothing there, an empty or damaged file, a missing column, bytes that are not UTF-8.
    """
    tables = []
    for file in files_of(path, file_format):
        texts, labels = _READERS[format_of(file, file_format)](file, text_column, label_column)
        if not len(texts):
            raise DataError(f"{file}: holds no rows; expected at least one text")
        ids = pa.array([f"{file.name}#{row}" for row in range(1, len(texts) + 1)])
        tables.append(pa.table({"id": ids, "text": texts, "label": pa.nulls(len(texts), pa.string()) if labels is None else labels}))
    return pa.concat_tables(tables)


def labelled_rows(table: pa.Table, where: str) -> pa.Table:
    """Return ``table`` if every row has a text and a label.

    Raises:
        DataError: Names the first rows that do not.
    """
    for column in ("text", "label"):
        missing = [row for row, value in enumerate(table.column(column).to_pylist()) if value is None or not value.strip()]
        if missing:
            ids = table.column("id")
            rows = ", ".join(ids[row].as_py() for row in missing[:_SHOWN])
            more = ", …" if len(missing) > _SHOWN else ""
            raise DataError(f"{where}: no {column} in {len(missing)} of {len(table)} rows ({rows}{more}); fill or remove them")
    return table


def files_of(path: str, file_format: SourceFormat = "auto") -> list[Path]:
    """The files that ``path`` names, sorted.

    Raises:
        DataError: Nothing there, or nothing that can be read.
    """
    if "://" in path:
        raise DataError(f"{path}: only files on this machine can be read; copy it here first")
    place = Path(path)
    if place.is_file():
        return [place]
    known = f"{', '.join(SUFFIXES)} files"
    if place.is_dir():
        inside = sorted(file for file in place.rglob("*") if file.is_file())
        found = [file for file in inside if file_format != "auto" or file.suffix.lower() in SUFFIXES]
        if not found:
            raise DataError(f"{path}: a folder without {known}; expected at least one")
        return found
    matches = sorted(Path(match) for match in glob.glob(path, recursive=True) if Path(match).is_file())
    if not matches:
        raise DataError(f"{path}: no such file; expected a file, a folder of {known}, or a glob that matches some")
    return matches


def format_of(file: Path, file_format: SourceFormat) -> SourceFormat:
    """The format to read ``file`` in.

    Raises:
        DataError: ``auto``, and the suffix says nothing.
    """
    if file_format != "auto":
        return file_format
    if file.suffix.lower() not in SUFFIXES:
        raise DataError(f"{file}: cannot tell its format from {file.suffix or 'no suffix'!r}; expected {', '.join(SUFFIXES)}")
    return SUFFIXES[file.suffix.lower()]


def _read_text(file: Path, text_column: str, label_column: str | None) -> tuple[pa.Array, pa.Array | None]:
    if label_column is not None:
        raise DataError(f"{file}: a text file has no columns, so no label column {label_column!r}; use CSV, JSON lines or Parquet")
    # Not splitlines(): it also breaks at form feeds and U+2028, which stand inside documents.
    return pa.array(_decoded(file).replace("\r\n", "\n").removesuffix("\n").split("\n"), pa.string()), None


def _read_jsonl(file: Path, text_column: str, label_column: str | None) -> tuple[pa.Array, pa.Array | None]:
    wanted = [text_column] if label_column is None else [text_column, label_column]
    columns: dict[str, list[str | None]] = {name: [] for name in wanted}
    for number, line in enumerate(_decoded(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file}: line {number}: not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{file}: line {number}: found a JSON {type(row).__name__}, expected an object with {', '.join(wanted)}")
        for name in wanted:
            if name not in row:
                raise DataError(f"{file}: line {number}: no key {name!r}; it has {', '.join(row) or 'none'}")
            columns[name].append(_json_text(row[name], name == label_column, f"{file}: line {number}: {name}"))
    arrays = [pa.array(columns[name], pa.string()) for name in wanted]
    return arrays[0], arrays[1] if label_column is not None else None


def _json_text(value: Any, is_label: bool, where: str) -> str | None:
    if value is None:
        return None
    if is_label and isinstance(value, bool | int):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: found {value!r}, expected {'a class name or whole number' if is_label else 'text'}")
    # A lone surrogate escape is legal JSON and not legal UTF-8.
    return value.encode("utf-8", "replace").decode("utf-8")


def _read_csv(file: Path, text_column: str, label_column: str | None) -> tuple[pa.Array, pa.Array | None]:
    wanted = [text_column] if label_column is None else [text_column, label_column]
    if not file.stat().st_size:
        raise DataError(f"{file}: is empty; expected a header with {', '.join(wanted)} and at least one row")
    try:
        table = pyarrow.csv.read_csv(
            file,
            # One thread, so that a refusal can name the row.
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, delimiter="\t" if file.suffix.lower() == ".tsv" else ","),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError) as error:
        _decoded(file)
        raise DataError(f"{file}: not a readable CSV file: {error}; quote texts that hold commas or line breaks") from None
    return _columns(file, table, text_column, label_column)


def _read_parquet(file: Path, text_column: str, label_column: str | None) -> tuple[pa.Array, pa.Array | None]:
    wanted = [text_column] if label_column is None else [text_column, label_column]
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            _require(file, names, wanted)
            table = opened.read(columns=wanted)
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file: {str(error).splitlines()[0]}") from None
    return _columns(file, table, text_column, label_column)


def _columns(file: Path, table: pa.Table, text_column: str, label_column: str | None) -> tuple[pa.Array, pa.Array | None]:
    _require(file, table.column_names, [text_column] if label_column is None else [text_column, label_column])
    texts = _as_text(file, table.column(text_column), text_column, is_label=False)
    return texts, None if label_column is None else _as_text(file, table.column(label_column), label_column, is_label=True)


def _require(file: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in names:
            raise DataError(f"{file}: no column {name!r}; it has {', '.join(names)}. Name the right one in the recipe")
        if list(names).count(name) > 1:
            raise DataError(f"{file}: {list(names).count(name)} columns are called {name!r}; rename all but one")


def _as_text(file: Path, column: pa.ChunkedArray, name: str, *, is_label: bool) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind)
    is_class = is_label and (pa.types.is_integer(kind) or pa.types.is_boolean(kind))
    if not is_text and not is_class:
        raise DataError(f"{file}: column {name!r} holds {kind}, expected {'class names or whole numbers' if is_label else 'text'}")
    return column.cast(pa.string())


def _decoded(file: Path) -> str:
    """The file as text, a byte-order mark removed.

    Raises:
        DataError: Empty, or a byte is not UTF-8; names line and byte.
    """
    content = file.read_bytes()
    if not content:
        raise DataError(f"{file}: is empty; expected at least one row")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}: line {line}: byte {error.start} (0x{content[error.start]:02x}) is not UTF-8; save the file as UTF-8"
        ) from None


_READERS: dict[str, Callable[[Path, str, str | None], tuple[pa.Array, pa.Array | None]]] = {
    "text": _read_text,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "parquet": _read_parquet,
}
