"""What ``preemption`` makes of a record: the share of a stretch of it, and steps that were done twice."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.preemption import done_again, share


def step(number: int, time: float, seconds: float = 1.0) -> dict[str, Any]:
    return {"event": "step", "step": number, "time": time, "seconds": seconds, "loader_seconds": 0.0}


RECORD = [
    {"event": "attempt", "step": 0, "time": 0.0},
    *(step(number, number + 1.0) for number in range(10)),  # ends at 10
    {"event": "checkpoint", "step": 8, "time": 10.0, "checkpoint_seconds": 0.0},
    {"event": "attempt", "step": 8, "time": 15.0},
    *(step(number, number + 8.0) for number in range(8, 13)),  # ends at 20
]


def test_time_that_is_lost_or_spent_on_a_restart_is_no_goodput() -> None:
    # Of fifteen seconds five went into the restart, and two steps were done twice.
    assert share(RECORD, 5.0, 20.0) == pytest.approx((15 - 5 - 2) / 15)


def test_an_undisturbed_stretch_is_all_goodput() -> None:
    assert share(RECORD, 2.0, 9.0) == pytest.approx(1.0)


def test_steps_that_are_done_again_are_counted_within_the_stretch_only() -> None:
    assert done_again(RECORD, 5.0, 20.0) == 2
    assert done_again(RECORD, 15.5, 20.0) == 0
