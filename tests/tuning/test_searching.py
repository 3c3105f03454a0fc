"""Trials are drawn as if the study had never stopped, wherever it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from foundation.config import parse
from foundation.records import read_rows
from tests.support.studies import whole_checkpoint
from tuning.config import StudyConfig
from tuning.record import Record, Report, Story, Trial, trials_of
from tuning.searching import Start, StudySearch, ask, handed_out_again, open_storage, reconcile, tell
from tuning.studies import trial_folder

SPACE: dict[str, Any] = {
    "schedule.peak_lr": {"kind": "log_uniform", "low": 1e-5, "high": 1e-3},
    "dropout": {"kind": "uniform", "low": 0.0, "high": 0.3},
}
TRIALS = 9


def study(kind: str, **more: Any) -> StudyConfig:
    tree = {"recipe": {"data": {"train": "x.csv"}}, "space": SPACE, "sampler": {"kind": kind, "first_random": 3}, "trials": TRIALS}
    return parse(StudyConfig, tree | more, where="study.yaml")


def opened(folder: Path, config: StudyConfig) -> optuna.Study:
    return open_storage(f"sqlite:///{folder / 'optuna.db'}", "tune-1", config, "max")


def ended(number: int, point: Mapping[str, Any]) -> Trial:
    return Trial(number, point, reports=(Report(8, -float(point["dropout"]), {"steps": 8}, True, 0.0),))


@pytest.mark.parametrize("kind", ["tpe", "random", "gp", "cma_es"])
def test_a_study_whose_process_goes_after_each_trial_draws_the_same_points(kind: str, tmp_path: Path) -> None:
    config = study(kind)
    (tmp_path / "once").mkdir()
    once = opened(tmp_path / "once", config)
    found = []
    for _ in range(TRIALS):
        number, point = ask(once, config)
        tell(once, ended(number, point), config)
        found.append((number, point))
    again = []
    for _ in range(TRIALS):
        number, point = ask(opened(tmp_path, config), config)
        tell(opened(tmp_path, config), ended(number, point), config)
        again.append((number, point))
    assert again == found
    assert [number for number, _ in found] == [*range(TRIALS)]
    assert len({tuple(point.values()) for _, point in found[:3]}) == 3  # those at random


def test_a_point_that_was_asked_for_and_not_recorded_is_the_same_one_again(tmp_path: Path) -> None:
    config = study("tpe", start_with=[{"dropout": 0.1}])
    _, first = ask(opened(tmp_path, config), config)
    assert first["dropout"] == 0.1
    _, second = ask(opened(tmp_path, config), config)
    assert reconcile(opened(tmp_path, config), config, {}) == {0: first, 1: second}


def test_optuna_is_told_how_trials_ended_that_only_the_record_knows(tmp_path: Path) -> None:
    config = study("random")
    study_of = opened(tmp_path, config)
    record = Record(tmp_path / "study.jsonl")
    for _ in range(3):
        record.begun(*ask(study_of, config))
    record.reported(0, 0.7, {"step": 9, "steps": 9, "trial_seconds": 1.0, "worker": "host:1"}, goes_on=True)
    record.failed(1, "ValueError")
    trials: dict[int, Trial] = trials_of(read_rows(tmp_path / "study.jsonl"), "max")
    assert reconcile(opened(tmp_path, config), config, trials) == {}
    states = [(trial.state, trial.value) for trial in opened(tmp_path, config).get_trials()]
    assert states == [(TrialState.COMPLETE, 0.7), (TrialState.FAIL, None), (TrialState.RUNNING, None)]


def test_trials_that_go_on_come_first_and_no_score_is_a_failure(tmp_path: Path) -> None:
    config = study("random")
    record = Record(tmp_path / "study.jsonl")
    study_of = opened(tmp_path, config)
    number, point = ask(study_of, config)
    record.begun(number, point)
    story = Story(record.path, "max")
    search = StudySearch(study_of, config, [Start(number, point, "folder", 8)], record, story, metric="accuracy", mode="max")
    first, second, third = (search.suggest(name) for name in "abc")
    assert first == asdict(Start(number, point, "folder", 8))
    assert (second["number"], second["checkpoint"], second["reported_step"]) == (1, None, 0)
    for at, value in ((8, 0.5), (16, 0.4)):
        record.reported(0, value, {"step": at, "steps": 16, "trial_seconds": 1.0, "worker": "a:1"}, goes_on=True)
    record.reported(1, float("nan"), {"step": 8, "steps": 16, "trial_seconds": 1.0, "worker": "a:1"}, goes_on=False)
    search.on_trial_complete("a", {"accuracy": 0.4})
    search.on_trial_complete("b", {"accuracy": float("nan")})
    search.on_trial_complete("c", error=True)
    assert third["number"] == 2
    assert [trial.state for trial in study_of.get_trials()] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    assert study_of.best_value == 0.5
    # The one that goes on was recorded when it began.
    assert [row["number"] for row in read_rows(tmp_path / "study.jsonl") if row["event"] == "trial"] == [0, 1, 2]


def test_a_trial_that_was_given_up_is_handed_out_again_until_it_has_lost_workers_enough(tmp_path: Path) -> None:
    config = study("random", trials=2)
    record = Record(tmp_path / "study.jsonl")
    study_of, story = opened(tmp_path, config), Story(record.path, "max")
    again = lambda start: handed_out_again(start, story.trials()[start.number], tmp_path, 2)  # noqa: E731
    search = StudySearch(study_of, config, [], record, story, metric="accuracy", mode="max", again=again)
    first = search.suggest("a")
    record.restarted(0, "its worker is gone")
    search.on_trial_complete("a", error=True)
    assert search.suggest("b") == {**first, "again": 1}
    assert study_of.get_trials()[0].state == TrialState.RUNNING
    record.restarted(0, "its worker is gone")
    search.on_trial_complete("b", error=True)
    assert search.suggest("c")["number"] == 1
    assert study_of.get_trials()[0].state == TrialState.FAIL
    assert search.suggest("d") == StudySearch.FINISHED


def test_a_trial_is_handed_out_again_from_its_newest_checkpoint_and_a_members_copy_from_its_own(tmp_path: Path) -> None:
    trial = Trial(3, {}, reports=(Report(16, 0.5, {"steps": 24}, True, 0.0),), restarts=1)
    start = Start(3, {}, "donor", 8, since=8, until=24, is_copy=True)
    assert handed_out_again(start, trial, tmp_path, 3) == replace(start, reported_step=16, again=1)
    own = tmp_path / "attempt-1" / trial_folder(3, since=8) / "checkpoint_000000"
    whole_checkpoint(own, 8)
    assert handed_out_again(start, trial, tmp_path, 3) == replace(start, reported_step=16, again=1), "that is where the stretch began"
    newer = whole_checkpoint(own.with_name("checkpoint_000001"), 16)
    assert handed_out_again(start, trial, tmp_path, 3) == replace(start, checkpoint=str(newer), reported_step=16, again=1, is_copy=False)
    assert handed_out_again(start, trial, tmp_path, 1) is None


def test_no_trial_begins_when_the_budget_is_spent_and_those_that_go_on_do(tmp_path: Path) -> None:
    config = study("random", budget={"steps": 16})
    record = Record(tmp_path / "study.jsonl")
    study_of = opened(tmp_path, config)
    story = Story(record.path, "max")
    search = StudySearch(study_of, config, [], record, story, metric="accuracy", mode="max")
    assert search.suggest("a")["number"] == 0
    record.reported(0, 0.5, {"step": 8, "steps": 32, "trial_seconds": 1.0, "worker": "a:1"}, goes_on=True)
    assert search.suggest("b")["number"] == 1
    record.reported(1, 0.5, {"step": 8, "steps": 32, "trial_seconds": 1.0, "worker": "a:2"}, goes_on=True)
    assert search.suggest("c") == StudySearch.FINISHED
    assert len(study_of.get_trials()) == 2
    waiting = [Start(1, {}, "folder", 8)]
    assert StudySearch(study_of, config, waiting, record, story, metric="accuracy", mode="max").suggest("a")["number"] == 1


def test_first_points_that_were_not_all_kept_when_the_process_went_are_kept_the_next_time(tmp_path: Path) -> None:
    points = [{"dropout": value / 10} for value in range(3)]
    opened(tmp_path, study("random", start_with=points[:1]))  # as if it had gone after the first
    config = study("random", start_with=points)
    drawn = [ask(opened(tmp_path, config), config)[1]["dropout"] for _ in range(4)]
    assert drawn[:3] == [0.0, 0.1, 0.2]
    assert len(opened(tmp_path, config).get_trials()) == 4
