"""START HERE: the loop, and what it needs of an engine, an objective and hooks.

Knows no Ray, no DeepSpeed, no BERT. One optimiser step is: the rows that ``order`` gives for the step → this rank's micro-batches →
``accumulate`` each → ``apply`` once, or ``discard`` when the guard objects. Loss is a sum over the whole step divided by the step's own
count, known beforehand; never a mean of means. Next: ``loader.py`` (rows to micro-batches, made ahead), ``guard.py`` (which steps are
skipped), ``objectives.py`` (what is computed), ``engine.py`` and ``zero.py`` (how it is computed), ``worker.py`` (where it runs).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from corpus.order import RowOrder, UniformOrder
from corpus.positions import BatchSchedule, constant, step_rows
from training.division import Limits
from training.guard import APPLIED, FRESH, NOT_FINITE, Decision, GiveUp, GuardError, Memory, decide, farewell, objection, remember
from training.loader import Objective, prefetched, step_batches
from training.optimiser_config import GuardConfig

if TYPE_CHECKING:
    from training.checkpoint import Fragment


@dataclass(frozen=True)
class Applied:
    """What became of one optimiser step."""

    is_applied: bool
    """False when the engine skipped it (a gradient that is not finite); the data step counts all the same."""
    grad_norm: float
    """Before clipping."""
    is_rescaled: bool = False
    """Whether it was skipped because its loss scale was too high, which is now lower."""


class Engine(Protocol):
    """Owns model, optimiser and communication. Implementations: ``TorchEngine`` (the reference), ``DeepSpeedEngine``."""

    rank: int
    world_size: int

    def accumulate(self, batch: Any, *, scale: float) -> float:
        """Forward and backward of one micro-batch; its summed loss times ``scale`` adds to the step's gradient. Returns loss × scale."""

    def apply(self, *, learning_rate: float) -> Applied:
        """Reduce gradients over ranks, clip, step the optimiser, clear. Collective."""

    def discard(self) -> None:
        """Clear the step's gradient without stepping. Every rank calls it, or none."""

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks, in fp64. Collective."""

    def evaluate(self, batch: Any) -> Sequence[float]:
        """The objective's counts for one micro-batch, without gradients. Collective under ZeRO-3."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name to unsharded shape."""

    def fragments(self) -> Iterator[Fragment]:
        """This rank's share of parameters and optimiser state, as views that the next step changes (see ``checkpoint.py``)."""

    def save(self, folder: Path) -> dict[str, Any]:
        """Write these; returns the rank's manifest entry."""


@dataclass(frozen=True)
class StepReport:
    """One finished step, the same on every rank but for ``row_ids``."""

    step: int
    """0-based data step."""
    loss: float
    """The step's loss over all ranks."""
    learning_rate: float
    grad_norm: float
    is_applied: bool
    optimiser_steps: int
    """Steps that were applied so far; differs from ``step + 1`` by the skipped ones."""
    tokens: int
    """Real tokens of the step, all ranks."""
    seconds: float
    loader_seconds: float
    """Of these, how long the engine waited for its micro-batches."""
    elapsed_s: float
    """Rank 0's seconds since the loop began, the same on every rank: what a hook decides by time, all ranks have to decide alike."""
    row_ids: tuple[str, ...] = field(repr=False)
    """The rows that this rank computed."""
    signals: tuple[float, ...] = ()
    """Sums over ranks of what each one's ``signals`` gave in this step."""
    decision: Decision = APPLIED
    """The guard's; names reason and rows of a step that was not applied."""
    memory: Memory = field(default=FRESH, repr=False)
    """The guard's after this step, for the checkpoint."""


@dataclass(frozen=True)
class Stop:
    """A hook's decision to end the run after this step."""

    reason: str


Hook = Callable[[StepReport], Stop | None]


def noise_seed(seed: int, step: int, rank: int, index: int) -> int:
    """The seed of dropout in one micro-batch: a function of where it is, so that a resumed run draws what an undisturbed one would."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}/{index}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def train(
    engine: Engine,
    objective: Objective,
    *,
    steps: int,
    rows_per_step: int,
    limits: Limits,
    seed: int,
    learning_rate: Callable[[int], float],
    seed_noise: Callable[[int], object],
    order: RowOrder | None = None,
    batches: BatchSchedule | None = None,
    prefetch_steps: int = 0,
    start_step: int = 0,
    optimiser_steps: int = 0,
    guard: GuardConfig = NOT_FINITE,
    memory: Memory = FRESH,
    signals: Callable[[], Sequence[float]] = tuple,
    hooks: Sequence[Hook] = (),
) -> Iterator[StepReport]:
    """Run steps ``start_step`` to ``steps``, yielding a report after each; a hook's ``Stop`` ends it after the step's other hooks ran.

    ``order`` defaults to every row once an epoch, ``batches`` to ``rows_per_step`` in every step. With ``prefetch_steps``, so many steps'
    micro-batches are made ahead on a thread; nothing else changes. ``memory`` is the guard's of the steps before ``start_step``. What
    ``signals`` gives once a step is summed over ranks with the loss, so that what ranks decide together costs no collective of its own.

    Raises:
        GuardError: The guard gave up: too many steps in a row could not be applied.
    """
    order, batches = order or UniformOrder(objective.rows, seed), batches or constant(rows_per_step)
    make = partial(
        step_batches,
        objective=objective,
        order=order,
        batches=batches,
        rank=engine.rank,
        world_size=engine.world_size,
        limits=limits,
    )
    since = time.perf_counter()
    with closing(prefetched(make, range(start_step, steps), ahead=prefetch_steps)) as loader:
        began = time.perf_counter()
        for ready in loader:
            loaded, loss = time.perf_counter(), 0.0
            for index, batch in enumerate(ready.batches):
                seed_noise(noise_seed(seed, ready.step, engine.rank, index))
                loss += engine.accumulate(batch, scale=1 / ready.count)
            own = [loss, time.perf_counter() - since if engine.rank == 0 else 0.0, *signals()]
            loss, elapsed_s, *agreed = engine.total(own)
            rate = learning_rate(ready.step)
            reason = objection(loss, memory, guard)
            applied = engine.apply(learning_rate=rate) if reason is None else _discarded(engine)
            if reason is None and not applied.is_applied:
                reason = f"the gradient norm is {applied.grad_norm}"
            rows = _rows_of(ready.step, objective, order, batches) if reason else ()
            decision = decide(reason, memory, guard, rows, is_rescaled=applied.is_rescaled)
            memory = remember(memory, loss, decision, guard)
            optimiser_steps += applied.is_applied
            report = StepReport(
                step=ready.step,
                loss=loss,
                learning_rate=rate,
                grad_norm=applied.grad_norm,
                is_applied=applied.is_applied,
                optimiser_steps=optimiser_steps,
                tokens=ready.tokens,
                seconds=time.perf_counter() - began,
                loader_seconds=loaded - began,
                elapsed_s=elapsed_s,
                row_ids=ready.row_ids,
                signals=tuple(agreed),
                decision=decision,
                memory=memory,
            )
            decisions = [hook(report) for hook in hooks]
            yield report
            if isinstance(decision, GiveUp):
                raise GuardError(farewell(ready.step, decision, memory))
            if any(isinstance(decision, Stop) for decision in decisions):
                return
            began = time.perf_counter()


def _discarded(engine: Engine) -> Applied:
    engine.discard()
    return Applied(is_applied=False, grad_norm=math.nan)


def _rows_of(step: int, objective: Objective, order: RowOrder, batches: BatchSchedule) -> tuple[str, ...]:
    """All ranks' rows of a step: a function of the step, so that nothing need be gathered."""
    rows = step_rows(step, order, batches)
    return tuple(objective.row_ids(rows, range(len(rows.rows))))


def every(steps: int, hook: Hook, *, last: int, seconds: float = math.inf, between: Hook | None = None) -> Hook:
    """Call ``hook`` after each ``steps`` steps and after the last one, and ``between`` when neither was called for so many ``seconds`` of
    rank 0's clock; a cadence is a wrapper, not an ``if`` in each hook."""
    last_s: float | None = 0.0

    def at_cadence(report: StepReport) -> Stop | None:
        nonlocal last_s
        done = report.step + 1
        is_due = done % steps == 0 or done == last
        # From the first step after a call on: what a call takes itself must not bring about the next one.
        last_s = report.elapsed_s if last_s is None else last_s
        called = hook if is_due else between if report.elapsed_s - last_s >= seconds else None
        if called is None:
            return None
        last_s = None
        return called(report)

    return at_cadence
