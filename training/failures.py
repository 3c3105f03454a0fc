"""Why a gang of workers ended, as a row of the run's record: written in Ray Train's controller, which alone learns it; the driver tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.train import UserCallback
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

from foundation.errors import RaybertError, first_line
from foundation.records import Recorder
from training.leaving import is_leaving


class Failures(UserCallback):  # type: ignore[misc]
    """Writes a row for each gang that ended with errors."""

    def __init__(self, record: Path) -> None:
        """``record``: the run's."""
        self._record = record

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train in its controller."""
        if any(map(is_leaving, worker_exceptions.values())):
            return  # rank 0 has written down why
        recorder = Recorder(self._record)
        recorder.write("failure", ranks={str(rank): reason(error) for rank, error in sorted(worker_exceptions.items())})
        recorder.close()


def reason(error: BaseException) -> str:
    """What happened to a worker, in a line."""
    if isinstance(error, WorkerHealthCheckTimeoutError):
        return "it does not answer"
    cause: Any = error
    if isinstance(error, WorkerHealthCheckFailedError):
        cause = error.health_check_failure
    if isinstance(error, UserExceptionWithTraceback):
        cause = error._base_exc
    if isinstance(cause, RayActorError):
        return "its process died, or its node is gone"
    return first_line(cause) if isinstance(cause, RaybertError) else f"{type(cause).__name__}: {first_line(cause)}"
