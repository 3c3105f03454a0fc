"""Where a run's time went, from records that are made up: one undisturbed, one killed between two checkpoints."""

from __future__ import annotations

from typing import Any

import pytest

from training.goodput import Goodput, Ledger, goodput

Rows = list[dict[str, Any]]


class Record:
    """Writes rows on a clock that it moves itself."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.rows: Rows = []

    def attempt(self, step: int, *, after: float) -> Record:
        self.now += after
        self.rows.append({"event": "attempt", "time": self.now, "step": step, "world_size": 2})
        return self

    def steps(self, first: int, last: int, *, seconds: float = 2.0, data: float = 0.5) -> Record:
        for step in range(first, last):
            self.now += seconds
            self.rows.append({"event": "step", "time": self.now, "step": step, "seconds": seconds, "loader_seconds": data})
        return self

    def checkpoint(self, step: int, *, evaluation: float = 3.0, writing: float = 1.0) -> Record:
        return self.evaluated(step, seconds=evaluation).written(step, seconds=writing)

    def evaluated(self, step: int, *, seconds: float = 3.0) -> Record:
        self.now += seconds
        self.rows.append({"event": "evaluation", "time": self.now, "step": step, "evaluation_seconds": seconds})
        return self

    def written(self, step: int, *, seconds: float = 1.0, event: str = "checkpoint") -> Record:
        self.now += seconds
        self.rows.append({"event": event, "time": self.now, "step": step, "checkpoint_seconds": seconds})
        return self


def test_an_undisturbed_run_is_start_steps_and_checkpoints() -> None:
    record = Record(100.0).attempt(0, after=7.0).steps(0, 4).checkpoint(4).steps(4, 6).checkpoint(6)
    found = goodput(record.rows, started=100.0, ended=record.now + 5.0)
    assert found == Goodput(start=7.0, data=3.0, compute=9.0, evaluation=6.0, checkpoint=2.0, other=5.0)
    assert found.share == pytest.approx(9.0 / 32.0)


def test_a_kill_between_checkpoints_loses_the_work_since_the_one_that_the_restart_goes_on_from() -> None:
    record = Record(0.0).attempt(0, after=10.0).steps(0, 4).checkpoint(4).steps(4, 7)
    record.attempt(4, after=60.0).steps(4, 8).checkpoint(8)
    found = goodput(record.rows, started=0.0)
    assert found.lost == 3 * 2.0
    assert found.restart == 60.0
    assert (found.data, found.compute) == (8 * 0.5, 8 * 1.5)
    assert found.seconds == pytest.approx(record.now)


def test_a_checkpoint_that_was_not_kept_is_lost_too() -> None:
    record = Record(0.0).attempt(0, after=1.0).steps(0, 2).checkpoint(2).steps(2, 4).checkpoint(4).steps(4, 5)
    record.attempt(2, after=9.0).steps(2, 6).checkpoint(6)
    found = goodput(record.rows, started=0.0)
    assert found.lost == 3 * 2.0 + 4.0
    assert (found.evaluation, found.checkpoint) == (6.0, 2.0)
    assert found.seconds == pytest.approx(record.now)


def test_a_kill_before_the_first_checkpoint_loses_all_steps_and_a_second_one_adds_to_it() -> None:
    record = Record(0.0).attempt(0, after=1.0).steps(0, 3).attempt(0, after=4.0).steps(0, 2).checkpoint(2).steps(2, 3)
    record.attempt(2, after=5.0).steps(2, 4)
    found = goodput(record.rows, started=0.0, ended=record.now)
    assert (found.start, found.lost, found.restart) == (1.0, 3 * 2.0 + 2.0, 9.0)
    assert found.compute == 4 * 1.5
    assert found.seconds == pytest.approx(record.now)


def test_a_checkpoint_whose_row_was_never_written_can_be_gone_back_to() -> None:
    record = Record(0.0).attempt(0, after=1.0).steps(0, 2).checkpoint(2).steps(2, 4)  # killed between checkpoint 4 and its row
    record.attempt(4, after=3.0).steps(4, 5)
    found = goodput(record.rows, started=0.0)
    assert found.seconds == pytest.approx(record.now)
    assert found.lost >= 0


def test_the_time_between_a_driver_that_died_and_the_command_that_goes_on_is_nobodys() -> None:
    record = Record(0.0).attempt(0, after=10.0).steps(0, 4).checkpoint(4).steps(4, 6)
    driven = record.now
    record.now += 3600.0
    record.rows.append({"event": "resumed", "time": record.now})
    record.attempt(4, after=20.0).steps(4, 8).checkpoint(8)
    found = goodput(record.rows, started=0.0, ended=record.now + 5.0)
    assert (found.lost, found.restart, found.other) == (2 * 2.0, 20.0, 5.0)
    assert found.seconds == pytest.approx(driven + (record.now - driven - 3600.0) + 5.0)


def test_a_checkpoint_that_is_not_evaluated_counts_as_one_and_can_be_gone_back_to() -> None:
    record = Record(0.0).attempt(0, after=1.0).steps(0, 2).written(2, seconds=1.5)
    record.steps(2, 3).attempt(2, after=4.0).steps(2, 4)
    found = goodput(record.rows, started=0.0)
    assert (found.checkpoint, found.evaluation, found.lost) == (1.5, 0.0, 2.0)
    assert found.seconds == pytest.approx(record.now)


def test_steps_that_were_done_while_a_checkpoint_was_written_are_lost_when_a_restart_goes_back_to_it() -> None:
    record = Record(0.0).attempt(0, after=1.0).steps(0, 2).evaluated(2).steps(2, 5).written(2, seconds=1.5).steps(5, 6)
    record.attempt(2, after=4.0).steps(2, 3)
    found = goodput(record.rows, started=0.0)
    assert (found.evaluation, found.checkpoint, found.lost) == (3.0, 1.5, 4 * 2.0)
    assert found.seconds == pytest.approx(record.now)


def test_a_checkpoint_that_could_not_be_written_took_its_time_and_is_no_place_to_go_back_to() -> None:
    record = Record(0.0).attempt(0, after=1.0).steps(0, 2).checkpoint(2).steps(2, 4).evaluated(4).written(4, event="unwritten").steps(4, 5)
    assert goodput(record.rows, started=0.0).checkpoint == 2.0
    record.attempt(2, after=4.0)
    assert goodput(record.rows, started=0.0).lost == 3 * 2.0 + 4.0


def test_a_record_that_has_one_row_for_evaluation_and_checkpoint_is_still_read() -> None:
    record = Record(0.0).attempt(0, after=1.0).steps(0, 2)
    record.now += 4.0
    both = {"evaluation_seconds": 3.0, "checkpoint_seconds": 1.0}
    record.rows.append({"event": "evaluation", "time": record.now, "step": 2} | both)
    record.steps(2, 3).attempt(2, after=4.0).steps(2, 4)
    found = goodput(record.rows, started=0.0)
    assert (found.evaluation, found.checkpoint, found.lost) == (3.0, 1.0, 2.0)
    assert found.seconds == pytest.approx(record.now)


def test_waiting_for_nodes_is_a_part_of_the_start_or_of_the_restart() -> None:
    record = Record(0.0)

    def wait(seconds: float) -> None:
        record.now += seconds
        record.rows.append({"event": "waiting", "time": record.now, "room": 0, "least": 1})

    wait(30.0)
    record.attempt(0, after=2.0).steps(0, 2).checkpoint(2)
    wait(30.0)
    wait(30.0)
    record.attempt(2, after=3.0).steps(2, 4)
    found = goodput(record.rows, started=0.0)
    assert (found.start, found.restart) == (32.0, 63.0)
    assert found.seconds == pytest.approx(record.now)


def test_what_is_told_between_two_attempts_takes_nothing_from_the_restart() -> None:
    record = Record(0.0).attempt(0, after=1.0).steps(0, 2).checkpoint(2).steps(2, 3)
    for event in ("failure", "damaged", "leaving"):
        record.now += 4.0
        record.rows.append({"event": event, "time": record.now})
    record.attempt(2, after=3.0).steps(2, 4)
    found = goodput(record.rows, started=0.0)
    assert found.restart == 15.0
    assert found.seconds == pytest.approx(record.now)


def test_a_run_without_a_row_is_all_other() -> None:
    assert goodput([], started=5.0, ended=9.0) == Goodput(other=4.0)
    assert goodput([], started=5.0).share == 0.0


def test_adding_rows_one_by_one_can_be_asked_at_any_time() -> None:
    record = Record(0.0).attempt(0, after=2.0).steps(0, 4).checkpoint(4).steps(4, 6).attempt(4, after=3.0).steps(4, 6)
    ledger = Ledger(0.0)
    for count, row in enumerate(record.rows, 1):
        ledger.add(row)
        assert ledger.split() == goodput(record.rows[:count], started=0.0)
        assert ledger.split().seconds == pytest.approx(row["time"])
