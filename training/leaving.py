"""A gang that begins again elsewhere without losing a step: told that a node is about to go, or that there is room for more workers, it
writes a checkpoint and ends, and the next gang goes on from there.

Ray Train itself lets the workers go on until a node's deadline, and ends them without a word for a resize; both times it restarts from
whatever checkpoint there is then. If there is no time for one here, none is begun.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

_FIRST_S = 5.0
"""A checkpoint is taken to need so long while none was written."""
_FACTOR = 2.0
"""On how long the last one took: on a node that is going others write theirs too."""
_UNKNOWN_S = 30.0
"""Until a node goes of which Ray knows no deadline."""
_TO_RESIZE_S = 600.0
"""In which a gang has to leave for one of another size; after that Ray ends it."""


class LeftError(Exception):
    """The gang ended, with a checkpoint of its last step."""


@dataclass(frozen=True)
class Notice:
    """What Ray says of nodes that a gang runs on."""

    deadline_s: float | None
    """Unix seconds at which the first of them goes, None when that is not known."""
    ranks: tuple[int, ...]
    """Of the gang, on these nodes; none when none goes and the gang is to have another size."""


@dataclass(frozen=True)
class Leave:
    """Write a checkpoint and end."""

    ranks: tuple[int, ...]
    seconds: float
    """Until the first node goes."""


@dataclass(frozen=True)
class Stay:
    """Go on until the node is gone: a checkpoint could be cut off."""

    ranks: tuple[int, ...]
    seconds: float
    needed_s: float
    """By a checkpoint."""


def decide(notices: Iterable[Notice | None], *, now: float, last_s: float | None) -> Leave | Stay:
    """What to do about the ranks' notices, of which one at least is there.

    Args:
        notices: By rank; one may have come to some ranks and not yet to others.
        now: Unix seconds.
        last_s: How long the last checkpoint took, until it was whole; None before the first.
    """
    found = [notice for notice in notices if notice is not None]
    deadlines = [notice.deadline_s for notice in found if notice.deadline_s is not None]
    ranks = tuple(sorted({rank for notice in found for rank in notice.ranks}))
    seconds = min(deadlines) - now if deadlines else _UNKNOWN_S
    needed_s = _FIRST_S if last_s is None else _FACTOR * last_s + 1.0
    return Leave(ranks, seconds) if seconds >= needed_s else Stay(ranks, seconds, needed_s)


def notice() -> Notice | None:
    """What this worker has been told; unlike Ray Train's public call no barrier over all ranks, so cheap enough for every step."""
    from ray.train.v2._internal.execution.context import get_train_context

    info = get_train_context().preemption_context.preemption_info
    if info is None:
        return None
    return Notice(info.deadline_ms / 1000 if info.deadline_ms else None, tuple(info.preempted_ranks))


def ask_to_leave(workers: Iterable[Any]) -> None:
    """Tell workers of Ray Train, as it tells them of a drain, to make way for a gang of another size."""
    info = PreemptionInfo(deadline_ms=int(1000 * (time.time() + _TO_RESIZE_S)), preempted_node_to_ranks={})
    for worker in workers:
        worker.actor.mark_preempt.remote(info)


def is_leaving(error: BaseException) -> bool:
    """Whether a worker ended because its gang left."""
    return isinstance(error._base_exc if isinstance(error, UserExceptionWithTraceback) else error, LeftError)


class LeavingIsNoFailure(DefaultFailurePolicy):  # type: ignore[misc]
    """Ray's policy, for which a gang that left goes on without having failed."""

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """As Ray's, but for gangs that left."""
        if isinstance(training_failed_error, WorkerGroupError) and any(map(is_leaving, training_failed_error.worker_failures.values())):
            return FailureDecision.RETRY
        return super().make_decision(training_failed_error)
