"""Which positions a step holds: batch sizes as a function of the step, warm-ups included.

``position(step)`` is the number of rows consumed before a step. It follows from the schedule alone, so a run is resumed by its step number.
``step_rows`` puts a schedule and an order together and is what a loop calls. Knows nothing of what lies at a position: that is
``order.py`` and ``mixture.py``.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from corpus.order import RowOrder, StepRows


@dataclass(frozen=True)
class BatchStage:
    """A constant batch from one step on."""

    from_step: int
    rows_per_step: int
    """G, the global batch: rows of one optimiser step over all workers."""


@dataclass(frozen=True)
class BatchSchedule:
    """Batch sizes over a run: stages by ascending first step, the first from step 0; the last never ends."""

    stages: tuple[BatchStage, ...]

    def __post_init__(self) -> None:
        begins = [stage.from_step for stage in self.stages]
        if not begins or begins[0] != 0 or any(a >= b for a, b in pairwise(begins)):
            raise ValueError(f"batch stages begin at steps {begins}; the first begins at 0 and each later one at a later step")
        for stage in self.stages:
            if stage.rows_per_step < 1:
                raise ValueError(f"the batch from step {stage.from_step} on is {stage.rows_per_step} rows; at least 1 is needed")

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """Rows consumed before each stage."""
        found = [0]
        for stage, following in pairwise(self.stages):
            found.append(found[-1] + (following.from_step - stage.from_step) * stage.rows_per_step)
        return tuple(found)


def constant(rows_per_step: int) -> BatchSchedule:
    """The same batch at every step."""
    return BatchSchedule((BatchStage(0, rows_per_step),))


def linear_ramp(first: int, last: int, *, increment: int, over_rows: int) -> BatchSchedule:
    """A batch warm-up: from ``first`` to ``last`` rows per step by ``increment``, each size for an equal part of ``over_rows``.

    Sizes grow by the rows seen, as published warm-ups do (Brown et al. 2020, appendix B: linearly over the first billions of tokens); a
    stage ends with the step that reaches its part, so the ramp ends up to one step per stage late.

    Args:
        first: Rows per step at step 0.
        last: Rows per step after the ramp.
        increment: Rows added from stage to stage; the step up to ``last`` may be smaller.
        over_rows: Rows until ``last`` is reached.
    """
    if not 0 < first <= last or increment < 1 or over_rows < 0:
        raise ValueError(
            f"a ramp from {first} to {last} by {increment} over {over_rows} rows; it needs 0 < first <= last, increment > 0, over_rows >= 0"
        )
    sizes = range(first, last, increment)
    stages, step, consumed = [], 0, 0
    for number, size in enumerate(sizes):
        steps = max(0, -(-(over_rows * (number + 1) // len(sizes) - consumed) // size))
        if steps:
            stages.append(BatchStage(step, size))
        step, consumed = step + steps, consumed + steps * size
    return BatchSchedule((*stages, BatchStage(step, last)))


def position(step: int, schedule: BatchSchedule) -> int:
    """Rows consumed before ``step``: the position of its first row. O(log stages)."""
    number = _stage_of_step(step, schedule)
    stage = schedule.stages[number]
    return schedule.positions[number] + (step - stage.from_step) * stage.rows_per_step


def rows_per_step_at(step: int, schedule: BatchSchedule) -> int:
    """G at ``step``."""
    return schedule.stages[_stage_of_step(step, schedule)].rows_per_step


def step_of(position: int, schedule: BatchSchedule) -> int:
    """The step that holds ``position``: the inverse of ``position``.

    The last step of epoch e is ``step_of((e + 1) * epoch_rows - 1, schedule)``; it may hold rows of the next epoch too.
    """
    if position < 0:
        raise ValueError(f"positions count from 0; asked for {position}")
    number = bisect_right(schedule.positions, position) - 1
    stage = schedule.stages[number]
    return stage.from_step + (position - schedule.positions[number]) // stage.rows_per_step


def step_rows(step: int, order: RowOrder, schedule: BatchSchedule) -> StepRows:
    """The rows of ``step`` in ``order``; a step may cross epochs."""
    begin = position(step, schedule)
    return order.rows_at(np.arange(begin, begin + rows_per_step_at(step, schedule), dtype=np.int64))._replace(step=step)


def _stage_of_step(step: int, schedule: BatchSchedule) -> int:
    if step < 0:
        raise ValueError(f"steps count from 0; asked for {step}")
    return bisect_right(schedule.stages, step, key=lambda stage: stage.from_step) - 1
