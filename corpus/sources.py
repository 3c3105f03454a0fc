"""Reads texts from files, table by table: one row a text, with an id that says which file and row it came from.

Every refusal names the file and, where there is one, the line, byte or row. Memory does not grow with a file. Knows nothing of cleaning,
splits or what rows are for. Where files lie is ``files.py``; built-in sources are ``movie_reviews.py``; all meet in ``build.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from corpus.config import SourceFormat
from corpus.fields import Field, from_arrow, from_json
from corpus.files import SourceFile, files_of, format_of
from foundation.errors import DataError, first_line

ROWS_PER_TABLE = 1_000
BYTES_PER_TABLE = 8_000_000
_SHOWN = 5
_CSV_BLOCK = 1 << 20
_LARGEST_CSV_BLOCK = 1 << 30


@dataclass
class BadLines:
    """Lines of one source that could not be read, and how many may be."""

    share: float = 0.0
    """Most of a source's lines that may be bad."""
    lines: int = 0
    """Lines read so far."""
    bad: int = 0
    examples: list[str] = field(default_factory=list)
    """The first few, with file, line and what is wrong."""

    def add(self, error: DataError) -> None:
        """Count a bad line.

        Raises:
            DataError: ``error``, when none may be bad.
        """
        if self.share <= 0:
            raise error
        self.bad += 1
        if len(self.examples) < _SHOWN:
            self.examples.append(str(error))

    def judge(self) -> None:
        """Look at the share at the end of a file; single bad lines at its beginning are no verdict.

        Raises:
            DataError: Too many were bad.
        """
        if self.bad > self.share * self.lines:
            raise DataError(
                f"{self.examples[0]}; {self.bad} of {self.lines} lines are bad, more than max_bad_share={self.share:g}. "
                "Mend the file or raise max_bad_share"
            )


def read_files(
    path: str, *, text_column: str, label_column: str | None = None, more: Sequence[Field] = (), file_format: SourceFormat = "auto"
) -> pa.Table:
    """Read a file, a folder or a glob into one table.

    Args:
        path: What to read.
        text_column: Column with the text; text files have none, their lines are the texts.
        label_column: Column with the class; None reads no labels.
        more: Further columns, such as ``fields.fields_of`` gives; a ``label`` among them stands for ``label_column``.
        file_format: ``auto`` goes by each file's suffix.

    Returns:
        Columns ``id``, ``text``, ``label`` and those of ``more``, all strings in the forms of ``fields.py``, null where the file has none;
        in file and row order.

    Raises:
        DataError: Nothing there, an empty or damaged file, a missing column, bytes that are not UTF-8.
    """
    files = files_of(path, file_format)
    return pa.concat_tables(
        table
        for file in files
        for table in read_file(file, text_column=text_column, label_column=label_column, more=more, file_format=file_format)
    )


def read_file(
    file: SourceFile,
    *,
    text_column: str,
    label_column: str | None = None,
    more: Sequence[Field] = (),
    file_format: SourceFormat = "auto",
    rows: int = ROWS_PER_TABLE,
    bad: BadLines | None = None,
) -> Generator[pa.Table, None, None]:
    """Read one file, at most ``rows`` texts or about ``BYTES_PER_TABLE`` at a time; see ``read_files``."""
    bad = bad or BadLines()
    number = 0
    fields = (Field("text", text_column), *((Field("label", label_column, "class"),) if label_column is not None else ()), *more)
    reader = _READERS[format_of(file, file_format)]
    for columns in _cut(reader(file, fields, bad), rows):
        count = len(columns[0])
        ids = pa.array([f"{file.name.rpartition('/')[2]}#{row}" for row in range(number + 1, number + count + 1)])
        number += count
        table = {"id": ids, "text": columns[0], "label": pa.nulls(count, pa.string())}
        yield pa.table(table | {field.name: column for field, column in zip(fields, columns, strict=True)})
    bad.judge()
    if not number:
        raise DataError(f"{file.path}: holds no rows; expected at least one text")


def columns_of(file: SourceFile, file_format: SourceFormat = "auto") -> list[str]:
    """Names of a file's columns, as its header or its first row has them; text files have none.

    Raises:
        DataError: It cannot be read.
    """
    kind = format_of(file, file_format)
    try:
        if kind == "csv":
            parse = pa.csv.ParseOptions(newlines_in_values=True, delimiter="\t" if file.is_tab_separated else ",")
            with pa.csv.open_csv(file.stream(), parse_options=parse) as reader:
                return list(reader.schema.names)
        if kind == "parquet":
            with pa.parquet.ParquetFile(file.random_access()) as opened:
                return list(opened.schema_arrow.names)
        if kind == "arrow":
            with file.random_access() as opened:
                return list(_arrow_reader(opened)[0].schema.names)
        if kind == "jsonl":
            row: Any = next((json.loads(line) for _, lines in _lines(file) for line in lines if line.strip()), {})
            return list(row) if isinstance(row, dict) else []
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file.path}: its columns cannot be read: {first_line(error)}") from None
    return []


_Columns = tuple[Any, ...]
"""One Arrow array of strings for each field, the text first."""


def _cut(tables: Iterator[_Columns], rows: int) -> Iterator[_Columns]:
    """Cut what a reader gives into tables of bounded rows and bytes; borders depend on the file alone."""
    for columns in tables:
        texts, start = columns[0], 0
        while start < len(texts):
            stop = min(start + rows, len(texts))
            while stop - start > 1 and texts.slice(start, stop - start).nbytes > BYTES_PER_TABLE:
                stop = start + (stop - start) // 2
            yield tuple(column.slice(start, stop - start) for column in columns)
            start = stop


def _read_text(file: SourceFile, fields: Sequence[Field], bad: BadLines) -> Iterator[_Columns]:
    if len(fields) > 1:
        surplus = fields[1]
        raise DataError(
            f"{file.path}: a text file has no columns, so no {surplus.name} column {surplus.column!r}; use CSV, JSON lines or Parquet"
        )
    for _, lines in _lines(file):
        bad.lines += len(lines)
        yield (pa.array(lines, pa.string()),)


def _read_jsonl(file: SourceFile, fields: Sequence[Field], bad: BadLines) -> Iterator[_Columns]:
    for first, lines in _lines(file):
        rows: list[list[str | None]] = []
        for number, line in enumerate(lines, start=first):
            if not line.strip():
                continue
            bad.lines += 1
            try:
                rows.append(_json_row(line, fields, f"{file.path}: line {number}"))
            except DataError as error:
                bad.add(error)
        yield tuple(pa.array(list(column), pa.string()) for column in zip(*rows, strict=True)) or (pa.array([], pa.string()),) * len(fields)


def _json_row(line: str, fields: Sequence[Field], where: str) -> list[str | None]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: found a JSON {type(row).__name__}, expected an object with {', '.join(_columns_of(fields))}")
    for name in _columns_of(fields):
        if name not in row:
            raise DataError(f"{where}: no key {name!r}; it has {', '.join(row) or 'none'}")
    return [from_json(row[field.column], field, f"{where}: {field.column}") for field in fields]


def _read_csv(file: SourceFile, fields: Sequence[Field], bad: BadLines) -> Iterator[_Columns]:
    wanted = _columns_of(fields)
    if not file.size:
        raise DataError(f"{file.path}: is empty; expected a header with {', '.join(wanted)} and at least one row")
    block, given = _CSV_BLOCK, 0
    while True:
        row = 0
        try:
            for table in _csv_tables(file, wanted, block):
                # After a retry with larger blocks, what was given already is passed over.
                fresh = table.slice(max(0, min(len(table), given - row)))
                row += len(table)
                if len(fresh):
                    bad.lines += len(fresh)
                    yield _columns(file, fresh, fields, given + 1)
                    given = row
            return
        except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError, OSError) as error:
            if "straddling object straddles two block boundaries" in str(error) and block < _LARGEST_CSV_BLOCK:
                block *= 8  # one value is longer than a block
                continue
            for _ in _lines(file):
                pass  # bytes that are not UTF-8 are told with their line
            raise DataError(f"{file.path}: not a readable CSV file: {error}; quote texts that hold commas or line breaks") from None


def _csv_tables(file: SourceFile, wanted: Sequence[str], block: int) -> Iterator[pa.Table]:
    parse = pa.csv.ParseOptions(newlines_in_values=True, delimiter="\t" if file.is_tab_separated else ",")
    # One thread, so that a refusal can name the row.
    read = pa.csv.ReadOptions(use_threads=False, block_size=block)
    with pa.csv.open_csv(file.stream(), read_options=read, parse_options=parse) as reader:
        _require(file, reader.schema.names, wanted)
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(wanted, pa.string()), include_columns=list(wanted), strings_can_be_null=False
    )
    with pa.csv.open_csv(file.stream(), read_options=read, parse_options=parse, convert_options=convert) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _read_parquet(file: SourceFile, fields: Sequence[Field], bad: BadLines) -> Iterator[_Columns]:
    wanted, row = _columns_of(fields), 1
    try:
        with pa.parquet.ParquetFile(file.random_access()) as opened:
            _require(file, opened.schema_arrow.names, wanted)
            for batch in opened.iter_batches(batch_size=ROWS_PER_TABLE, columns=wanted):
                table = pa.Table.from_batches([batch])
                table.validate(full=True)
                bad.lines += len(table)
                yield _columns(file, table, fields, row)
                row += len(table)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.path}: not a readable Parquet file: {first_line(error)}") from None


def _read_arrow(file: SourceFile, fields: Sequence[Field], bad: BadLines) -> Iterator[_Columns]:
    wanted, row = _columns_of(fields), 1
    try:
        with file.random_access() as opened:
            reader, is_file = _arrow_reader(opened)
            _require(file, reader.schema.names, wanted)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else iter(reader)
            for batch in batches:
                table = pa.Table.from_batches([batch]).select(wanted)
                table.validate(full=True)
                bad.lines += len(table)
                yield _columns(file, table, fields, row)
                row += len(table)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.path}: not a readable Arrow file: {first_line(error)}") from None


def _arrow_reader(opened: Any) -> tuple[Any, bool]:
    """A reader, and whether it is one of the file form; ``datasets`` saves the streaming form."""
    is_file = opened.read(6) == b"ARROW1"
    opened.seek(0)
    return (pa.ipc.open_file(opened) if is_file else pa.ipc.open_stream(opened)), is_file


def _columns(file: SourceFile, table: pa.Table, fields: Sequence[Field], first_row: int) -> _Columns:
    return tuple(from_arrow(table.column(field.column), field, file.path, first_row) for field in fields)


def _columns_of(fields: Sequence[Field]) -> list[str]:
    """Names in the file, each once: one column may serve as two things."""
    return list(dict.fromkeys(field.column for field in fields))


def _require(file: SourceFile, names: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in names:
            raise DataError(f"{file.path}: no column {name!r}; it has {', '.join(names)}. Name the right one in the recipe")
        if list(names).count(name) > 1:
            raise DataError(f"{file.path}: {list(names).count(name)} columns are called {name!r}; rename all but one")


def _lines(file: SourceFile) -> Iterator[tuple[int, list[str]]]:
    r"""Lines in blocks, each with the number of its first one (from 1); a byte-order mark and ``\r`` before a line's end are removed.

    Not ``splitlines()``: it also breaks at form feeds and U+2028, which stand inside documents.

    Raises:
        DataError: Empty, or a byte is not UTF-8; names line and byte.
    """
    number, offset = 1, 0
    parts: list[bytes] = []  # of the line that is not complete; joined once, or a line of many blocks would cost its square
    is_empty = True
    for block in file.blocks():
        end = block.rfind(b"\n") + 1
        if is_empty:
            is_empty = False
            if block.startswith(b"\xef\xbb\xbf"):
                block, end, offset = block[3:], max(0, end - 3), 3
        if not end:
            parts.append(block)
            continue
        whole = b"".join([*parts, block[:end]])
        parts = [block[end:]]
        lines = _decoded(file, whole, number, offset).replace("\r\n", "\n").split("\n")[:-1]
        yield number, lines
        number, offset = number + len(lines), offset + len(whole)
    if is_empty:
        raise DataError(f"{file.path}: is empty; expected at least one row")
    if rest := b"".join(parts):
        yield number, [_decoded(file, rest, number, offset)]


def _decoded(file: SourceFile, content: bytes, line: int, offset: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise DataError(
            f"{file.path}: line {line}: byte {offset + error.start} (0x{content[error.start]:02x}) is not UTF-8; save the file as UTF-8"
        ) from None


_Reader = Callable[[SourceFile, Sequence[Field], BadLines], Iterator[_Columns]]
_READERS: dict[str, _Reader] = {
    "text": _read_text,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
}
