"""A build that is cut at a place of one's choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable

import pyarrow as pa

from corpus.stages import Stage, map_here


class Cut(Exception):
    """The power went."""


class Mapper:
    """The plain mapper; counts tables by stage and fails at the one that it is told to."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.done: Counter[str] = Counter()
        self._fail_at = fail_at

    def __call__(self, tables: Iterable[pa.Table], stage: Stage) -> Generator[pa.Table, None, None]:
        for result in map_here(tables, stage):
            if self._fail_at == sum(self.done.values()):
                raise Cut
            self.done[type(stage).__name__] += 1
            yield result
