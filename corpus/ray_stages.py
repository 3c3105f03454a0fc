"""The one file of ``corpus`` that imports ray: applies a stage with Ray Data, pieces in order. The plain twin is ``stages.map_here``."""

from __future__ import annotations

import gc
import logging
from collections.abc import Generator, Iterable
from typing import Any

import pyarrow as pa

from corpus.stages import Stage


def map_with_ray(tables: Iterable[pa.Table], stage: Stage, *, workers: int | None) -> Generator[pa.Table, None, None]:
    """Map tables in Ray tasks on the cluster that this process is connected to.

    Args:
        tables: What to map; each is one task's work, and all of them go into the object store.
        stage: Picklable; sent to the cluster once.
        workers: Tasks at a time, one CPU each; None lets Ray use every free CPU.

    Yields:
        The results, in the order of ``tables``.
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

    mapped = ray.data.from_arrow(list(tables)).map_batches(
        run, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, compute=ray.data.TaskPoolStrategy(size=workers)
    )
    yield from mapped.iter_batches(batch_size=None, batch_format="pyarrow")
    # A finished data set is a cycle of Python objects; until it is collected, its blocks stay in the object store beside the next wave's.
    del mapped
    gc.collect()
