"""What a study's record tells of its trials."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.records import read_rows
from tuning.record import Record, Trial, trials_of

STEPS = {"steps": 30, "trial_seconds": 2.0, "worker": "host:1"}


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "study.jsonl")


def trials(folder: Path) -> dict[int, Trial]:
    return trials_of(read_rows(folder / "study.jsonl"), "max")


def test_each_trial_stands_as_its_last_row_says(record: Record, tmp_path: Path) -> None:
    for number in range(5):
        record.begun(number, {"dropout": number / 10})
    record.reported(1, 0.5, {"step": 10, **STEPS}, goes_on=True)
    record.reported(2, 0.4, {"step": 10, **STEPS}, goes_on=False)
    record.reported(3, 0.6, {"step": 30, **STEPS}, goes_on=True)
    record.failed(4, "ValueError: no such rate", traceback="Traceback …")
    found = trials(tmp_path)
    assert {number: trial.state for number, trial in found.items()} == {
        0: "unfinished",
        1: "unfinished",
        2: "stopped",
        3: "finished",
        4: "failed",
    }
    assert (found[1].step, found[1].score, found[0].step, found[0].score) == (10, 0.5, 0, None)
    assert (found[3].sampled, found[4].cause) == ({"dropout": 0.3}, "ValueError: no such rate")


def test_a_trials_seconds_are_those_of_all_its_workers(record: Record, tmp_path: Path) -> None:
    record.begun(0, {})
    for step, seconds, worker in ((10, 4.0, "a:1"), (20, 7.0, "a:1"), (30, 3.0, "a:2")):
        if step == 30:
            record.restarted(0, "its worker is gone")
        record.reported(0, 0.5, {"step": step, "steps": 30, "trial_seconds": seconds, "worker": worker}, goes_on=step < 30)
    (trial,) = trials(tmp_path).values()
    assert trial.seconds == pytest.approx(10.0)
    assert (trial.restarts, trial.state) == (1, "finished")
    assert [span.worker for span in trial.spans] == ["a:1", "a:2"]


def test_a_members_stretches_in_one_worker_add_up() -> None:
    begun = {"event": "trial", "time": 0.0, "number": 0, "sampled": {}, "is_member": True}
    told = {"event": "report", "number": 0, "score": 0.5, "goes_on": True, "steps": 20, "worker": "a:1"}
    stretches = [(10, 5, 104.0), (20, 10, 109.0), (30, 3, 115.0)]  # two reports of the first, one of the second
    rows = [{**told, "step": step, "trial_seconds": seconds, "time": time} for step, seconds, time in stretches]
    (trial,) = trials_of([begun, *rows], "max").values()
    assert [(span.began, span.ended) for span in trial.spans] == [(99, 109), (112, 115)]
    assert trial.seconds == 13


def test_rows_of_trials_that_were_never_begun_and_a_row_that_was_cut_off_are_passed_over(record: Record, tmp_path: Path) -> None:
    record.reported(7, 0.5, {"step": 10, **STEPS}, goes_on=True)
    with (tmp_path / "study.jsonl").open("a") as file:
        file.write('{"event": "trial", "num')
    record.begun(0, {})
    assert [*trials(tmp_path)] == [0]


@pytest.mark.parametrize(("mode", "score", "step"), [("max", 0.7, 20), ("min", 0.5, 10)])
def test_a_trials_score_is_that_of_its_best_report_the_earliest_of_equals(
    record: Record, tmp_path: Path, mode: str, score: float, step: int
) -> None:
    record.begun(0, {})
    for at, value in ((10, 0.5), (20, 0.7), (30, 0.7), (40, 0.5), (50, float("nan"))):
        record.reported(0, value, {"step": at, "steps": 60, "trial_seconds": 1.0, "worker": "a:1"}, goes_on=True)
    (trial,) = trials_of(read_rows(tmp_path / "study.jsonl"), mode).values()
    assert trial.best is not None
    assert (trial.score, trial.best.step, trial.step) == (score, step, 50)
