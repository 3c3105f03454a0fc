"""The loader: each step's rows from memory maps made into this rank's micro-batches, ahead of the engine, on a thread.

``step_batches`` is a pure function of the step; ``prefetched`` only calls it early, so a run with a thread computes what one without does,
bit for bit. Knows no engine, no optimiser and no communication: what another rank does changes nothing here. Next: ``loop.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from corpus.order import RowOrder, StepRows
from corpus.positions import BatchSchedule, step_rows
from training.division import Limits, microbatches_of_rank

_Asked = TypeVar("_Asked")
_Made = TypeVar("_Made")
THREAD_NAME = "raybert-loader"


class Objective(Protocol):
    """What is learnt: rows to batches, batches to losses.

    Its methods may run on the loader's thread: they draw from no global generator and change nothing.
    """

    rows: int
    """Training rows in an epoch."""

    def lengths(self, rows: StepRows) -> Sequence[int]:
        """Tokens of each row."""

    def count(self, rows: StepRows) -> float:
        """What the step's summed loss is divided by: masked tokens, or rows."""

    def batch(self, rows: StepRows, members: Sequence[int], weight: float) -> Any:
        """Tensors of one micro-batch."""

    def row_ids(self, rows: StepRows, members: Sequence[int]) -> list[str]:
        """Names of rows, for audits."""


@dataclass(frozen=True)
class StepBatches:
    """One step, ready for one rank."""

    step: int
    count: float
    """What the step's summed loss, over all ranks, is divided by."""
    tokens: int
    """Real tokens of the step, all ranks."""
    batches: tuple[Any, ...]
    """This rank's micro-batches, fillers included."""
    row_ids: tuple[str, ...]
    """The rows in them, fillers left out."""


def step_batches(
    step: int, objective: Objective, order: RowOrder, batches: BatchSchedule, *, rank: int, world_size: int, limits: Limits
) -> StepBatches:
    """Make one rank's micro-batches of ``step``. Pure: the same arguments give the same tensors, whenever and wherever it is called."""
    rows = step_rows(step, order, batches)
    lengths = objective.lengths(rows)
    plan = microbatches_of_rank(lengths, rank, world_size, limits)
    return StepBatches(
        step=step,
        count=objective.count(rows),
        tokens=sum(lengths),
        batches=tuple(objective.batch(rows, micro.members, micro.weight) for micro in plan),
        row_ids=tuple(objective.row_ids(rows, [member for micro in plan if micro.weight for member in micro.members])),
    )


def prefetched(
    make: Callable[[_Asked], _Made], arguments: Iterable[_Asked], *, ahead: int, thread_name: str = THREAD_NAME
) -> Generator[_Made, None, None]:
    """``map(make, arguments)``, with the next results made on one thread while the caller works on the last one.

    Close it (``contextlib.closing``) when it is not read to its end: its thread ends with the call of ``make`` that is running.

    Args:
        make: Called for one argument after the other, in order.
        arguments: What to call it with.
        ahead: Most results made and not asked for yet: what bounds the memory. 0 makes each when it is asked for, without a thread.
        thread_name: For debuggers.

    Raises:
        Exception: What ``make`` raised, when the result that it would have been is asked for; all earlier ones have been given by then.
    """
    if ahead < 0:
        raise ValueError(f"ahead is {ahead}; it is at least 0")
    if ahead == 0:
        yield from map(make, arguments)
        return
    pool = ThreadPoolExecutor(1, thread_name_prefix=thread_name)
    waiting: deque[Future[_Made]] = deque()
    try:
        for argument in arguments:
            waiting.append(pool.submit(make, argument))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
