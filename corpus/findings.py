"""One finding about labelled rows, how it is worded and how it is refused; and the rows with which nothing can be done. What is looked for
is ``checks.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.labelled_config import Severity
from foundation.errors import DataError

CheckKind = Literal["empty_texts", "unseen_labels", "conflicts", "leaks", "duplicates", "small_classes", "imbalance", "long_texts"]

_SHOWN = 5
_SHOWN_CLASSES = 20
_ROWS_IN_JSON = 20


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    kind: CheckKind
    severity: Literal["refuse", "warn"]
    message: str
    """What, how many, and the first few rows."""
    rows: tuple[str, ...]
    """Ids of all rows concerned."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the first twenty rows."""
        head = {"kind": self.kind, "severity": self.severity, "message": self.message}
        return head | {"count": len(self.rows), "rows": list(self.rows[:_ROWS_IN_JSON])}


def refuse(findings: Sequence[Finding], where: str) -> tuple[Finding, ...]:
    """Return ``findings`` if all are warnings.

    Raises:
        DataError: Some are to be refused; says each on a line.
    """
    refused = [f"{where}: {finding.message}" for finding in findings if finding.severity == "refuse"]
    if refused:
        raise DataError("\n".join(refused))
    return tuple(findings)


def labelled_rows(table: pa.Table, where: str, *, texts: Severity = "refuse") -> pa.Table:
    """Return ``table`` if every row has a text, a label and, where there is that column, a pair.

    Args:
        table: As ``sources.read_files`` gives it.
        where: The files, for messages.
        texts: Unless it is ``refuse``, rows without a text pass, with an empty one.

    Raises:
        DataError: Names the first rows that do not.
    """
    for column in ("text", "pair", "label"):
        if column not in table.column_names:
            continue
        found = table.column(column)
        if column == "text" and texts != "refuse":
            table = table.set_column(table.column_names.index(column), column, pc.fill_null(found, ""))
            continue
        missing = np.flatnonzero(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(found), ""), True).to_numpy())
        if len(missing):
            ids = table.column("id").take(pa.array(missing)).to_pylist()
            raise DataError(f"{where}: {lacking(column, ids, len(table))}")
    return table


def not_in_train(unknown: Sequence[str], ids: Sequence[str], names: Sequence[str]) -> str:
    """Says that rows have labels which train does not have."""
    more = ", …" if len(names) > _SHOWN_CLASSES else ""
    return (
        f"{', '.join(map(repr, unknown[:_SHOWN]))}: not a label in train ({len(ids)} rows: {named(ids)}); "
        f"train has {', '.join(names[:_SHOWN_CLASSES])}{more}"
    )


def named(ids: Sequence[str]) -> str:
    """The first few ids."""
    return ", ".join([*ids[:_SHOWN], *(["…"] if len(ids) > _SHOWN else [])])


def lacking(column: str, ids: Sequence[str], rows: int) -> str:
    """Says that rows lack something, and which."""
    return f"no {column} in {len(ids)} of {rows} rows ({named(ids)}); fill or remove them"
