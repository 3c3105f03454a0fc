"""The per-row work of a build, as one picklable function over Arrow tables: repair, judge, tokenise.

Runs anywhere: in this process, or in Ray tasks (``ray_stages.py``). Rows never see each other here; what needs all rows (duplicates,
splits, packing) is ``build.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import pyarrow as pa

from corpus.cleaning import UnicodeForm, reason_to_drop, repair
from corpus.tokenizer import encode

Stage = Callable[[pa.Table], pa.Table]
Mapper = Callable[[pa.Table, Stage], Generator[pa.Table, None, None]]
"""Applies a stage to pieces of a table and yields the results in the table's order; closed early, it frees what it holds."""


@dataclass(frozen=True)
class CleanAndTokenise:
    """Adds to ``text`` (repaired): ``changed`` bool, ``reason`` string or null, ``ids`` list<int32> without special tokens.

    Rows with a reason, and test rows, get no ids: they are never packed.
    """

    tokenizer: str
    """The serialised tokenizer: workers on other machines do not see its folder."""
    unicode_form: UnicodeForm
    min_characters: int

    def __call__(self, table: pa.Table) -> pa.Table:
        """Map one piece; row order and all other columns are kept."""
        given = [text or "" for text in table.column("text").to_pylist()]
        texts = [repair(text, self.unicode_form) for text in given]
        reasons = [reason_to_drop(text, self.min_characters) for text in texts]
        packed = [split == "train" and reason is None for split, reason in zip(table.column("split").to_pylist(), reasons, strict=True)]
        encoded = iter(encode(self.tokenizer, [text for text, wanted in zip(texts, packed, strict=True) if wanted]))
        ids = [next(encoded) if wanted else [] for wanted in packed]
        mapped = table.set_column(table.column_names.index("text"), "text", pa.array(texts, pa.string()))
        mapped = mapped.append_column("changed", pa.array([a != b for a, b in zip(given, texts, strict=True)], pa.bool_()))
        mapped = mapped.append_column("reason", pa.array(reasons, pa.string()))
        return mapped.append_column("ids", pa.array(ids, pa.list_(pa.int32())))


def map_here(table: pa.Table, stage: Stage, *, batch_rows: int = 1_000) -> Generator[pa.Table, None, None]:
    """The plain mapper: piece after piece in this process."""
    for start in range(0, len(table), batch_rows):
        yield stage(table.slice(start, batch_rows))
