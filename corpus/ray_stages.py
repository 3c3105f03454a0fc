"""The one file of ``corpus`` that imports ray: applies a stage with Ray Data, pieces in order. The plain twin is ``stages.map_here``."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

import pyarrow as pa

from corpus.stages import Stage


def map_with_ray(table: pa.Table, stage: Stage, *, batch_rows: int, workers: int | None) -> Generator[pa.Table, None, None]:
    """Map pieces of ``table`` in Ray tasks on the cluster that this process is connected to.

    Args:
        table: What to map.
        stage: Picklable; sent to the cluster once.
        batch_rows: Rows in a piece; a piece is one task's work.
        workers: Tasks at a time, one CPU each; None lets Ray use every free CPU.

    Yields:
        The results, in the order of ``table``.
    """
    import ray.data

    # Progress is told by the caller; Ray Data would print its own beside it. Importing it sets its level, so after that.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False

    def run(piece: Any) -> Any:
        return stage(piece)

    pieces = [table.slice(start, batch_rows) for start in range(0, len(table), batch_rows)]
    mapped = ray.data.from_arrow(pieces).map_batches(
        run, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, compute=ray.data.TaskPoolStrategy(size=workers)
    )
    yield from mapped.iter_batches(batch_size=None, batch_format="pyarrow")
