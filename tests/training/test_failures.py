"""What a driver is told of workers that ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

from foundation.errors import DataError
from foundation.records import read_rows
from training.failures import Failures, reason


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (WorkerHealthCheckFailedError("failed", RayActorError()), "its process died, or its node is gone"),
        (RayActorError(), "its process died, or its node is gone"),
        (WorkerHealthCheckTimeoutError("late"), "it does not answer"),
        (
            UserExceptionWithTraceback(RuntimeError("connection closed by peer\nmore"), "a traceback"),
            "RuntimeError: connection closed by peer",
        ),
        (UserExceptionWithTraceback(DataError("reviews.csv: no such file"), "a traceback"), "reviews.csv: no such file"),
    ],
)
def test_a_reason_is_one_line_without_a_traceback(error: Exception, told: str) -> None:
    assert reason(error) == told


def test_all_ranks_that_failed_are_one_row(tmp_path: Path) -> None:
    Failures(tmp_path / "metrics.jsonl").after_exception(None, {1: RayActorError(), 0: UserExceptionWithTraceback(ValueError("x"), "")})
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert row["ranks"] == {"0": "ValueError: x", "1": "its process died, or its node is gone"}
