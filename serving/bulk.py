"""Batch inference: a file of texts in, the same file with labels and scores out, with Ray Data over as many CPUs as there are.

``examine`` reads the input once and refuses what is wrong before Ray starts; ``run`` scores it in order and puts the output in place by one
rename, so that a reader sees the whole result or none. Columns pass through unchanged: a CSV stays text, a JSON line keeps its fields.

What is added depends on the model's task. One label: ``label`` and ``score``. Several: a list of the labels that reach their thresholds,
best first, and the list of their scores (JSON text in a CSV). A regression: ``score`` alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from foundation.errors import DataError, RunError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["csv", "jsonl", "parquet"]
Wanted = dict[str, str]
"""Columns that must hold texts, each with the option that names it."""

_SUFFIXES: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_LINE = "raybert_line"
_GIVEN = "raybert_given"
"""The labels that a row was given, on the way back from the workers only."""
_ROWS_PER_BATCH = 256


@dataclass(frozen=True)
class BulkPlan:
    """A checked piece of work."""

    source: Path
    target: Path
    format: Format
    text_column: str
    label_column: str
    score_column: str
    rows: int
    columns: tuple[str, ...]
    """Columns of the input; of JSON lines, those of the first."""
    pair_column: str | None = None


@dataclass(frozen=True)
class BulkResult:
    """What was done."""

    rows: int
    labels: dict[str, int]
    """How often each label was given; nothing for a regression."""


def examine(
    source: Path, target: Path, *, text_column: str = "text", pair_column: str | None = None, prefix: str = "", overwrite: bool = False
) -> BulkPlan:
    """Read the input once and check everything that can be wrong with it.

    Args:
        source: A .csv, .jsonl or .parquet file.
        target: The file to write, of the same kind.
        text_column: The column that holds the texts.
        pair_column: The column that holds second texts, if they are pairs.
        prefix: Put before the new columns ``label`` and ``score``.
        overwrite: Replace an existing target.

    Raises:
        DataError: Names the file, and the line or column that is wrong.
    """
    kind = _format_of(source)
    if _format_of(target) != kind:
        raise DataError(f"{target}: the input is {kind}; the output is of the same kind, so give a name that ends in {source.suffix}")
    if not source.is_file():
        raise DataError(f"{source}: {'is a folder; give a file' if source.is_dir() else 'no such file'}")
    if target.exists() and not overwrite:
        raise DataError(f"{target}: exists already; give another name, or --overwrite")
    if not target.parent.is_dir():
        raise DataError(f"{target}: its folder {target.parent} does not exist")
    if target.absolute() == source.absolute():
        raise DataError(f"{target}: is the input; give another name")
    label_column, score_column = f"{prefix}label", f"{prefix}score"
    read: dict[Format, Callable[[Path, Wanted], tuple[int, tuple[str, ...]]]] = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
    wanted = {text_column: "--text-column"} | ({} if pair_column is None else {pair_column: "--pair-column"})
    rows, columns = read[kind](source, wanted)
    if rows == 0:
        raise DataError(f"{source}: holds no rows")
    for name in (label_column, score_column):
        if name in columns:
            raise DataError(f"{source}: has a column {name} already; choose other names for the new ones, for example --prefix predicted_")
    return BulkPlan(source.absolute(), target.absolute(), kind, text_column, label_column, score_column, rows, columns, pair_column)


class Scorer:
    """What one Ray Data actor holds: a loaded classifier. Takes and gives Arrow tables."""

    def __init__(self, ref: str, plan: BulkPlan, threads: int) -> None:
        from serving.classifier import Classifier

        self._classifier = Classifier.open(ref, threads=threads)
        self._plan = plan

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add what the model says to each row, and the labels given in ``_GIVEN``."""
        import pyarrow as pa

        if self._plan.format == "jsonl":
            lines = [json.loads(line) for line in table.column(_LINE).to_pylist()]
            added, given = self._say([self._input(line) for line in lines])
            for name, values in added.items():
                for line, value in zip(lines, values, strict=True):
                    line[name] = value
            table = pa.table({_LINE: pa.array([json.dumps(line, ensure_ascii=False) for line in lines], pa.string())})
        else:
            read = [name for name in (self._plan.text_column, self._plan.pair_column) if name]
            added, given = self._say([self._input(row) for row in table.select(read).to_pylist()])
            for name, values in added.items():
                table = table.append_column(name, self._array(name, values))
        return table.append_column(_GIVEN, pa.array(given, pa.list_(pa.string())))

    def _array(self, name: str, values: list[Any]) -> pa.Array:
        import pyarrow as pa

        kind = pa.string() if name == self._plan.label_column else pa.float64()
        if self._classifier.task != "multi_label":
            return pa.array(values, kind)
        if self._plan.format == "csv":
            return pa.array([json.dumps(value, ensure_ascii=False) for value in values], pa.string())
        return pa.array(values, pa.list_(kind))

    def _input(self, row: dict[str, Any]) -> str | tuple[str, str]:
        text: str = row[self._plan.text_column]
        return text if self._plan.pair_column is None else (text, row[self._plan.pair_column])

    def _say(self, texts: list[str | tuple[str, str]]) -> tuple[dict[str, list[Any]], list[tuple[str, ...]]]:
        """The new columns, and the labels that each row was given."""
        scores_NC, given = self._classifier.score(texts)
        if self._classifier.task == "regression":
            return {self._plan.score_column: scores_NC[:, 0].tolist()}, given
        place = {label: index for index, label in enumerate(self._classifier.labels)}
        scores = [[float(row[place[label]]) for label in labels] for row, labels in zip(scores_NC, given, strict=True)]
        if self._classifier.task == "multi_label":
            return {self._plan.label_column: [list(labels) for labels in given], self._plan.score_column: scores}, given
        return {self._plan.label_column: [one for (one,) in given], self._plan.score_column: [one for (one,) in scores]}, given


def run(plan: BulkPlan, ref: str, *, actors: int, threads: int = 1, report: Callable[[int], None] = lambda done: None) -> BulkResult:
    """Score the input on the Ray cluster that this process is connected to.

    Args:
        plan: From ``examine``.
        ref: The model; give NAME/version rather than an alias, so that all actors load the same.
        actors: Classifiers to run at once, one CPU per thread each.
        threads: torch's threads in each.
        report: Told the number of rows done so far.

    Raises:
        RunError: A worker failed for good.
        DataError: The input changed since it was examined.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.execution_options.preserve_order = True
    # This process reads: the file lies on its disk, perhaps not on the workers'; and when the models have every CPU, a reading task
    # would wait for one for ever.
    blocks = [ray.put(table) for table in _tables(plan, _ROWS_PER_BATCH)]
    scored = ray.data.from_arrow_refs(blocks).map_batches(
        Scorer,
        fn_constructor_args=(ref, plan, threads),
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(blocks))),
        num_cpus=threads,
    )
    counts: dict[str, int] = {}
    part = plan.target.with_name(f".{plan.target.name}.{secrets.token_hex(4)}")
    done = 0
    try:
        with _writer(plan, part) as write:
            for table in scored.iter_batches(batch_format="pyarrow", batch_size=None):
                for label in itertools.chain.from_iterable(table.column(_GIVEN).to_pylist()):
                    counts[label] = counts.get(label, 0) + 1
                write(table.drop_columns([_GIVEN]))
                done += table.num_rows
                report(done)
        if done != plan.rows:
            raise DataError(f"{plan.source}: gave {done} rows, had {plan.rows} when it was examined; it was changed meanwhile, run again")
        os.replace(part, plan.target)
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise RunError(f"{plan.source}: not classified, nothing was written: {last}") from error
    finally:
        part.unlink(missing_ok=True)
    return BulkResult(done, dict(sorted(counts.items())))


def _format_of(path: Path) -> Format:
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise DataError(f"{path}: unknown kind of file {path.suffix or '(no suffix)'!r}; known are {', '.join(sorted(_SUFFIXES))}")
    return found


def _csv(source: Path, wanted: Wanted) -> tuple[int, tuple[str, ...]]:
    import pyarrow as pa
    from pyarrow import csv

    rows = 0
    if not source.stat().st_size:
        raise DataError(f"{source}: is empty; expected a header with {', '.join(wanted)} and at least one row")
    try:
        columns = _csv_columns(source)
        _require_columns(source, wanted, columns)
        with csv.open_csv(source, parse_options=_csv_shape(), convert_options=_csv_types(columns)) as reader:
            for batch in reader:
                rows += batch.num_rows
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise DataError(f"{source}: {_undecodable(source) or f'not a readable CSV file in UTF-8: {first_line(error)}'}") from None
    return rows, columns


def _undecodable(source: Path) -> str:
    """Where the first byte stands that is not UTF-8; empty when there is none."""
    with source.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"line {number}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
    return ""


def _csv_columns(source: Path) -> tuple[str, ...]:
    import csv

    with source.open(encoding="utf-8-sig", newline="") as file:
        return tuple(next(csv.reader(file), ()))


def _csv_shape() -> Any:
    from pyarrow import csv

    return csv.ParseOptions(newlines_in_values=True)


def _csv_types(columns: tuple[str, ...]) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    # Everything stays text: a guess at types would write 007 back as 7.
    return csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False)


def _jsonl(source: Path, wanted: Wanted) -> tuple[int, tuple[str, ...]]:
    rows, columns = 0, tuple[str, ...]()
    with source.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = json.loads(raw.decode("utf-8")) if raw.strip() else None
            except UnicodeDecodeError as error:
                raise DataError(f"{source}: line {number}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
            except ValueError as error:
                raise DataError(f"{source}: line {number}: not JSON: {error}") from None
            if line is None:
                continue
            if not isinstance(line, dict):
                raise DataError(f"{source}: line {number}: found a {type(line).__name__}, expected an object")
            columns = columns or tuple(line)
            _require_columns(source, wanted, tuple(line), f"line {number}: ")
            for name in wanted:
                if not isinstance(line[name], str):
                    raise DataError(f"{source}: line {number}: {name} is {line[name]!r}, expected text")
            rows += 1
    return rows, columns


def _parquet(source: Path, wanted: Wanted) -> tuple[int, tuple[str, ...]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(source) as file:
            columns = tuple(file.schema_arrow.names)
            _require_columns(source, wanted, columns)
            for name in wanted:
                kind = file.schema_arrow.field(name).type
                if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                    raise DataError(f"{source}: column {name} holds {kind}, expected text")
            row = 0
            for batch in file.iter_batches(columns=list(wanted)):
                for name in wanted:
                    if batch.column(name).null_count:
                        first = batch.column(name).is_null().to_pylist().index(True)
                        raise DataError(f"{source}: row {row + first}: {name} is empty (null); give it a text or remove the row")
                row += batch.num_rows
            return row, columns
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{source}: not a readable Parquet file: {first_line(error)}") from None


def _require_columns(source: Path, wanted: Wanted, columns: tuple[str, ...], where: str = "") -> None:
    for name, option in wanted.items():
        if name not in columns:
            found = ", ".join(columns) or "none"
            raise DataError(f"{source}: {where}no column {name!r}; found {found} ({option} names the one with the texts)")


def _tables(plan: BulkPlan, rows: int) -> Iterator[pa.Table]:
    """The input in order, as tables of at most ``rows`` rows."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    if plan.format == "parquet":
        with parquet.ParquetFile(plan.source) as file:
            for batch in file.iter_batches(batch_size=rows):
                yield pa.Table.from_batches([batch])
    elif plan.format == "csv":
        with csv.open_csv(plan.source, parse_options=_csv_shape(), convert_options=_csv_types(plan.columns)) as reader:
            for batch in reader:
                for start in range(0, batch.num_rows, rows):
                    yield pa.Table.from_batches([batch.slice(start, rows)])
    else:
        with plan.source.open(encoding="utf-8") as lines:
            kept = (line.strip() for line in lines if line.strip())
            while block := list(itertools.islice(kept, rows)):
                yield pa.table({_LINE: pa.array(block, pa.string())})


@contextlib.contextmanager
def _writer(plan: BulkPlan, part: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Opens the output with the first table's schema, and closes it."""
    from pyarrow import csv, parquet

    with contextlib.ExitStack() as opened:
        if plan.format == "jsonl":
            file = opened.enter_context(part.open("w", encoding="utf-8"))
            yield lambda table: file.writelines(f"{line}\n" for line in table.column(_LINE).to_pylist())
            return
        open_writer = csv.CSVWriter if plan.format == "csv" else parquet.ParquetWriter
        writers: list[Any] = []

        def write(table: pa.Table) -> None:
            if not writers:
                writers.append(opened.enter_context(open_writer(str(part), table.schema)))
            writers[0].write_table(table.cast(writers[0].schema) if plan.format == "parquet" else table)

        yield write
