"""What a column is read as: a text, a class, a list of classes, a number. Whatever a file holds becomes one string form of each, so that
all formats give the same rows and everything that follows handles strings.

Forms: a text and a class stand as they are, a list of classes as a JSON list in order of spelling without repeats, a number as the
shortest text that is read back as the same number. Knows nothing of files (``sources.py``) and nothing of what labels mean (``labels.py``).
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from corpus.config import LabelledDataConfig, SourceConfig
from corpus.labelled_config import LabelKind
from foundation.errors import DataError

FieldKind = Literal["text", "class", "list", "number"]

_ONE = {
    "text": "text",
    "class": "a class name or whole number",
    "list": 'a list of class names, such as ["a", "b"]',
    "number": "a finite number",
}
_COLUMN = {
    "text": "text",
    "class": "class names or whole numbers",
    "list": "lists of class names, or text that holds such lists",
    "number": "numbers",
}
_OF_LABEL: dict[LabelKind, FieldKind] = {"single": "class", "list": "list", "number": "number"}


@dataclass(frozen=True)
class Field:
    """One column to read."""

    name: str
    """What it is called in the tables that come out."""
    column: str
    """What it is called in the file."""
    kind: FieldKind = "text"
    separator: str | None = None
    """Between the classes of a list that is plain text."""


def fields_of(config: LabelledDataConfig | SourceConfig) -> tuple[Field, ...]:
    """The columns besides the text that a recipe names: ``label``, ``pair``, ``marked`` (the split) and ``group``."""
    found = [
        Field("label", config.label_column, _OF_LABEL[config.label_kind], config.label_separator) if config.label_column else None,
        Field("pair", config.pair_column) if config.pair_column else None,
        Field("marked", config.split_column, "class") if config.split_column else None,
        Field("group", config.group_column, "class") if config.group_column else None,
    ]
    return tuple(field for field in found if field is not None)


def from_json(value: Any, field: Field, where: str) -> str | None:
    """The string form of a JSON value.

    Raises:
        DataError: It is of another kind.
    """
    if value is None:
        return None
    try:
        # A lone surrogate escape is legal JSON and not legal UTF-8.
        return _form(value, field).encode("utf-8", "replace").decode("utf-8")
    except ValueError:
        raise DataError(f"{where}: found {_shown(value)}, expected {_ONE[field.kind]}{_hint(field, value)}") from None


def from_arrow(column: pa.ChunkedArray, field: Field, where: str, first_row: int) -> pa.Array:
    """The string forms of an Arrow column, nulls kept.

    Args:
        column: As the file has it.
        field: What to read it as.
        where: The file, for messages.
        first_row: Number of the column's first row, from 1.

    Raises:
        DataError: The column is of another type, or a value of another kind; names the row.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind)
    is_whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if field.kind in ("text", "class"):
        if not is_text and not (field.kind == "class" and is_whole):
            raise DataError(f"{where}: column {field.column!r} holds {kind}, expected {_COLUMN[field.kind]}{_type_hint(field, kind)}")
        return column.cast(pa.string()).combine_chunks()
    if field.kind == "number" and _is_number(kind):
        numbers = column.cast(pa.float64()).combine_chunks()
        finite = pc.fill_null(pc.is_finite(numbers), True)
        if not pc.all(finite, min_count=0).as_py():
            row = finite.index(False).as_py()
            raise _refused(numbers[row].as_py(), field, where, first_row + row)
        return numbers.cast(pa.string())
    if not is_text and not (field.kind == "list" and _is_list(kind)):
        raise DataError(f"{where}: column {field.column!r} holds {kind}, expected {_COLUMN[field.kind]}")
    if is_text:
        # Each distinct cell is parsed once.
        encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
        forms = []
        for number, cell in enumerate(encoded.dictionary.to_pylist()):
            try:
                forms.append(_form(cell, field) if cell.strip() else "")
            except ValueError:
                raise _refused(cell, field, where, first_row + encoded.indices.index(number).as_py()) from None
        return pa.array(forms, pa.string()).take(encoded.indices)
    return pa.array([_form_at(value, field, where, row) for row, value in enumerate(column.to_pylist(), start=first_row)], pa.string())


def parse_list(text: str, separator: str | None) -> list[str]:
    """Class names in a cell of text: parts between separators, or a JSON or Python list.

    Raises:
        ValueError: It is neither.
    """
    if separator is not None:
        return [part.strip() for part in text.split(separator) if part.strip()]
    stripped = text.strip()
    if not stripped.startswith(("[", "(", "{")):
        raise ValueError(text)
    try:
        found = json.loads(stripped)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(stripped)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise ValueError(text) from None
    if not isinstance(found, list | tuple | set):
        raise ValueError(text)
    return _class_names(list(found))


def _form_at(value: Any, field: Field, where: str, row: int) -> str | None:
    try:
        return None if value is None else _form(value, field)
    except ValueError:
        raise _refused(value, field, where, row) from None


def _form(value: Any, field: Field) -> str:
    if field.kind == "list":
        names = parse_list(value, field.separator) if isinstance(value, str) else _class_names(value)
        return json.dumps(sorted(set(names)), ensure_ascii=False)
    if field.kind == "number":
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(value)
        try:
            number = float(value)
        except OverflowError:
            raise ValueError(value) from None
        if not math.isfinite(number):
            raise ValueError(value)
        return repr(number).removesuffix(".0")
    if isinstance(value, str):
        return value
    if field.kind == "class" and isinstance(value, bool | int):
        return str(value).lower() if isinstance(value, bool) else str(value)
    raise ValueError(value)


def _class_names(found: Sequence[Any]) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(item, str | int) for item in found):
        raise ValueError(found)
    names = [str(item).lower() if isinstance(item, bool) else str(item).strip() for item in found]
    if not all(names):
        raise ValueError(found)
    return names


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_list(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return False
    inner = kind.value_type
    inner = inner.value_type if pa.types.is_dictionary(inner) else inner
    return bool(
        pa.types.is_string(inner)
        or pa.types.is_large_string(inner)
        or pa.types.is_string_view(inner)
        or pa.types.is_integer(inner)
        or pa.types.is_boolean(inner)
        or pa.types.is_null(inner)
    )


def _refused(value: Any, field: Field, where: str, row: int) -> DataError:
    return DataError(f"{where}: row {row}: {field.column}: found {_shown(value)}, expected {_ONE[field.kind]}{_hint(field, value)}")


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def _hint(field: Field, value: Any) -> str:
    if field.kind == "list" and isinstance(value, str) and field.separator is None:
        return "; name what stands between them with label_separator"
    if field.kind == "class" and field.name == "label" and isinstance(value, list | float):
        return f"; set label_kind to {'list' if isinstance(value, list) else 'number'} if that is meant"
    return ""


def _type_hint(field: Field, kind: pa.DataType) -> str:
    if field.kind != "class" or field.name != "label" or not (_is_list(kind) or _is_number(kind)):
        return ""
    return f"; set label_kind to {'list' if _is_list(kind) else 'number'} if that is meant"
