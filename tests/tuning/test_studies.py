"""Going on with studies that their driver left: what is refused, what may differ, which checkpoint is taken."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from foundation import driving
from foundation.driving import driven
from foundation.errors import ConfigError, DataError
from foundation.home import home
from foundation.progress import minute
from foundation.pruning import Asked
from foundation.records import read_rows
from raybert.verbs.tune import app
from tests.support.studies import whole_checkpoint
from tests.support.tiny import make_encoder, make_packed, write_reviews
from training import runs
from training.config import FinetuneConfig
from training.planning import plan
from tuning import studies
from tuning.config import StudyConfig
from tuning.pruning import prune
from tuning.record import Record, Report, Trial, trials_of
from tuning.resuming import last_checkpoint, remove_surplus
from tuning.studies import open_study
from tuning.study import StudyPlan, plan_study
from tuning.winner import refit_recipe

pytestmark = pytest.mark.usefixtures("raybert_home")
SPACE = {"dropout": {"kind": "uniform", "low": 0.0, "high": 0.3}}
SEEDS = {"kind": "integer", "low": 0, "high": 9}


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    encoder, data = make_encoder(tmp_path / "encoder", layers=1), write_reviews(tmp_path / "r.csv", 60)
    recipe = {"encoder": str(encoder), "data": {"train": str(data)}, "max_length": 32, "rows_per_step": 8}
    return StudyConfig.model_validate({"recipe": recipe, "space": SPACE, "trials": 4})


def left_study(config: StudyConfig, *, state: str | None = None) -> Path:
    """A study whose driver is gone after three trials: one stopped, one at step 8, one that had not reported."""
    planned = plan_study(config, study_id="left")
    folder = Path(planned.study_folder)
    folder.mkdir(parents=True)
    with driven(folder):
        driving.begin(folder / studies.STUDY_FILE, attempts=1, plan=planned.as_json())
    record = Record(folder / studies.RECORD_FILE)
    for number in range(3):
        record.begun(number, {"dropout": 0.1})
    figures = {"steps": 24, "trial_seconds": 1.0, "worker": "host:1"}
    record.reported(0, 0.5, {"step": 8, **figures}, goes_on=False)
    record.reported(1, 0.7, {"step": 8, **figures}, goes_on=True)
    if state:
        driving.end(folder / studies.STUDY_FILE, state)
    return folder


def go_on(config: StudyConfig, **changed: Any) -> StudyPlan:
    return plan_study(StudyConfig.model_validate(config.model_dump(mode="json") | changed), resumes=open_study("left"))


def test_trials_that_ended_are_kept_and_the_others_go_on(config: StudyConfig) -> None:
    folder = left_study(config)
    assert open_study("left").state == "lost"
    planned = go_on(config, concurrent=1, trials=9)
    assert planned.resumes is not None
    assert (planned.resumes.ended, planned.resumes.unfinished) == (1, {1: 8, 2: 0})
    assert (planned.study_id, planned.study_folder) == ("left", str(folder))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"space": {"dropout": {"kind": "uniform", "low": 0.0, "high": 0.4}}},
            r"would be another study.*space\.dropout\.high: was 0\.3, now 0\.4",
        ),
        ({"seed": 5}, "seed: was 0, now 5"),
        ({"scheduler": {"kind": "none"}}, "scheduler.kind: was 'asha', now 'none'"),
        ({"trials": 2}, "trials is 2, and 3 were begun"),
    ],
)
def test_a_study_that_would_be_another_one_is_refused(config: StudyConfig, changed: dict[str, Any], message: str) -> None:
    left_study(config)
    with pytest.raises(ConfigError, match=message):
        go_on(config, **changed)


def test_other_data_is_refused(config: StudyConfig, tmp_path: Path) -> None:
    left_study(config)
    write_reviews(tmp_path / "r.csv", 90)
    with pytest.raises(ConfigError, match="because of the data's fingerprint: was '"):
        go_on(config)


def test_a_study_that_is_driven_is_refused_and_a_finished_one_unless_more_trials_are_asked_for(config: StudyConfig) -> None:
    folder = left_study(config)
    with driven(folder), pytest.raises(ConfigError, match=f"is still running \\(process {os.getpid()} on"):
        go_on(config)
    driving.end(folder / studies.STUDY_FILE, "finished")
    with pytest.raises(ConfigError, match="has finished its 3 trials; to go on, ask for more: trials=6"):
        go_on(config, trials=3)
    assert go_on(config).resumes is not None


def test_a_budget_may_be_raised_and_has_to_be_when_a_finished_study_has_spent_it(config: StudyConfig) -> None:
    folder = left_study(config)
    assert go_on(config, budget={"steps": 8}).resumes is not None  # its driver went, and it has no result yet
    driving.end(folder / studies.STUDY_FILE, "finished")
    with pytest.raises(ConfigError, match=r"left: its budget is spent \(steps 16 of 8\); to go on, raise"):
        go_on(config, budget={"steps": 8})
    assert go_on(config, budget={"steps": 80}).resumes is not None


def test_a_study_that_is_not_there_is_told_with_those_that_are(config: StudyConfig) -> None:
    left_study(config)
    with pytest.raises(DataError, match=f"other: no such study in {home().runs}; there are: left"):
        open_study("other")


def test_a_trial_goes_on_from_its_latest_whole_checkpoint_of_any_attempt(tmp_path: Path) -> None:
    first = whole_checkpoint(tmp_path / "attempt-9" / "trial-004" / "checkpoint_000007", 70)
    second = whole_checkpoint(tmp_path / "attempt-10" / "trial-004" / "checkpoint_000000", 80)
    cut = whole_checkpoint(tmp_path / "attempt-10" / "trial-004" / "checkpoint_000001", 90)
    next(cut.glob("*.safetensors")).write_bytes(b"cut")
    whole_checkpoint(tmp_path / "attempt-10" / "trial-005" / "checkpoint_000000", 10)
    found = last_checkpoint(tmp_path, 4)
    assert found is not None
    assert (found.folder, found.progress.step) == (second, 80)
    remove_surplus(tmp_path, 4, found)
    assert (first.exists(), second.exists(), cut.exists()) == (False, True, False)
    assert last_checkpoint(tmp_path, 6) is None


def test_a_study_of_a_version_without_records_is_told_from_the_others(config: StudyConfig) -> None:
    left_study(config)
    old = home().runs / "old"
    old.mkdir()
    (old / studies.STUDY_FILE).write_text('{"study_id": "old"}')
    assert [study.study_id for study in studies.all_studies()] == ["left"]
    with pytest.raises(DataError, match=r"old: a study of an earlier version.*begin it anew: raybert tune -c"):
        open_study("old")


def test_the_best_trial_is_the_earliest_of_equals_and_none_that_failed(config: StudyConfig) -> None:
    folder = left_study(config)
    record, figures = Record(folder / studies.RECORD_FILE), {"step": 8, "steps": 24, "trial_seconds": 1.0, "worker": "host:1"}
    record.reported(2, 0.7, figures, goes_on=False)
    record.begun(3, {"dropout": 0.2})
    record.reported(3, 0.9, figures, goes_on=True)
    assert (best := open_study("left").best) is not None
    assert best.number == 3
    record.failed(3, "ValueError")
    assert (best := open_study("left").best) is not None
    assert best.number == 1


def test_a_study_of_a_pretraining_begins_from_scratch_or_goes_on_from_an_encoder(tmp_path: Path) -> None:
    packed = make_packed(tmp_path / "packed", make_encoder(tmp_path / "encoder", layers=1))
    tree = {"recipe": {"data": str(packed), "new_model": {"layers": 1, "hidden": 32}, "steps": 40}, "space": SPACE, "trials": 3}
    planned = plan_study(StudyConfig.model_validate(tree))
    assert (planned.verb, planned.metric, planned.mode, planned.steps_at_most) == ("pretrain", "validation_loss", "min", 120)
    assert [*planned.locations.values()] == [""]
    continued = {**tree, "recipe": {"data": str(packed), "encoder": str(tmp_path / "encoder"), "steps": 40}}
    assert [*plan_study(StudyConfig.model_validate(continued)).locations.values()] == [str(tmp_path / "encoder")]


def test_a_list_tells_how_far_each_study_is_and_its_best_score(config: StudyConfig) -> None:
    left_study(config)
    (found,) = [study.brief() for study in studies.all_studies()]
    started = found.pop("started")
    assert found == {"study_id": "left", "state": "lost", "trials_ended": 1, "trials": 4, "metric": "macro_f1", "score": 0.7}
    told = CliRunner().invoke(app, ["list"]).stdout.split()
    assert told == ["left", *minute(started).split(), "lost", "1/4", "trials", "macro_f1", "0.7000"]


def test_a_recipe_file_of_a_study_is_known_by_its_folder(config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = left_study(config)
    monkeypatch.chdir(folder)
    recipes = (studies.BEST_FILE, studies.CONTINUED_FILE, studies.REFIT_FILE)
    assert [studies.study_of(folder / name) for name in recipes] == ["left"] * 3
    assert studies.study_of(Path(studies.BEST_FILE)) == "left"
    assert [studies.study_of(file) for file in (None, folder / studies.CONFIG_FILE, tmp_path / studies.BEST_FILE)] == [None] * 3


def test_a_refit_ends_as_many_passes_in_as_the_trials_best_report_was(config: StudyConfig) -> None:
    figures = {"steps": 12, "trial_seconds": 1.0, "worker": "host:1"}
    record = Record(home().runs / "study.jsonl")
    record.path.parent.mkdir(parents=True)
    record.begun(0, {"dropout": 0.2, "epochs": 2})
    for step, score in ((4, 0.5), (8, 0.9), (12, 0.7)):
        record.reported(0, score, {"step": step, **figures}, goes_on=True)
    (trial,) = trials_of(read_rows(record.path), "max").values()
    refit = refit_recipe(config, trial)
    assert isinstance(refit, FinetuneConfig)
    # 54 rows to train on and 6 held back, 8 a step: 1.19 passes.
    assert (refit.data.train_on, refit.stop_after_steps, refit.checkpoint.every_steps) == ("train_and_validation", 9, 9)
    assert (refit.dropout, refit.epochs) == (0.2, 2)
    planned = plan("finetune", refit)
    assert (planned.rows, planned.steps) == (60, 15)

    last = replace(trial, reports=tuple(replace(report, step=14) for report in trial.reports))
    whole = refit_recipe(config, last)
    assert whole is not None
    assert whole.stop_after_steps == 15, "never beyond the schedule's end"


def test_there_is_no_refit_where_validation_rows_are_needed_or_there_are_none(config: StudyConfig, tmp_path: Path) -> None:
    trial = Trial(0, {}, reports=(Report(8, 0.5, {"steps": 8}, True, 0.0),))
    tags = tmp_path / "tags.csv"
    tags.write_text("text,label\n" + "".join(f"text {i},{'a;b' if i % 2 else 'a'}\n" for i in range(40)))
    lists = {"train": str(tags), "label_kind": "list", "label_separator": ";"}
    few = tmp_path / "few.csv"
    few.write_text("text,label\none,a\ntwo,b\n")
    for data in (lists, {"train": str(few)}):
        tree = config.model_dump(mode="json")
        tree["recipe"]["data"] = data
        assert refit_recipe(StudyConfig.model_validate(tree), trial) is None
    packed = make_packed(tmp_path / "packed", Path(config.recipe.encoder))
    recipe = {"data": str(packed), "encoder": config.recipe.encoder}
    assert refit_recipe(StudyConfig.model_validate({"recipe": recipe, "space": {"seed": SEEDS}}), trial) is None


def with_checkpoints(folder: Path) -> dict[int, list[Path]]:
    """Two checkpoints of each of three trials, of 1,000 bytes."""
    made: dict[int, list[Path]] = {}
    for number in range(3):
        for attempt, name in ((1, "checkpoint_000000"), (2, "checkpoint_000000")):
            path = folder / studies.attempt_folder(attempt) / studies.trial_folder(number) / name
            path.mkdir(parents=True)
            (path / "tensors").write_bytes(b"x" * 1000)
            made.setdefault(number, []).append(path)
    return made


def test_a_finished_study_keeps_only_the_winners_last_checkpoint(config: StudyConfig) -> None:
    made = with_checkpoints(folder := left_study(config, state="finished"))
    assert CliRunner().invoke(app, ["prune", "left", "--dry-run"]).output == (
        f"{'left':<34} finished    checkpoints       5 kB\nwould remove 5 kB of 1 studies; 0 stay as they are\n"
    )
    assert [item.bytes for item in prune(Asked()).gone] == [5000]
    assert [path.exists() for path in made[1]] == [False, True], "trial 1 has the best score"
    assert not any(path.exists() for number in (0, 2) for path in made[number])
    assert [item.reason for item in prune(Asked()).kept] == ["has no checkpoints"]
    (gone,) = prune(Asked(whole=True)).gone
    assert (gone.what, folder.exists()) == ("study", False)


def test_a_study_that_could_be_gone_on_with_and_one_that_a_run_began_from_stay(config: StudyConfig) -> None:
    made = with_checkpoints(folder := left_study(config))
    assert [item.reason for item in prune(Asked()).kept] == ["is lost, but could be gone on with"]
    driving.end(folder / studies.STUDY_FILE, "finished")
    run = home().runs / "heir"
    run.mkdir()
    recipe = {"start_from": str(made[1][1])}
    runs.begin(run, {"verb": "finetune", "steps": 20, "recipe": recipe, "location": ""}, score="accuracy", score_order="max")
    runs.end(run, "finished")
    assert [item.reason for item in prune(Asked(whole=True)).kept] == ["heir began from it"]
    assert len(prune(Asked()).gone) == 1, "the run has finished, and does not need it again"
    assert folder.exists()


def test_a_checkpoint_that_was_cut_off_does_not_count_as_the_winners(config: StudyConfig) -> None:
    made = with_checkpoints(left_study(config, state="finished"))
    (made[1][0] / runs.CHECKPOINT_FILE).write_text("{}")
    assert [item.bytes for item in prune(Asked()).gone] == [4000]
    assert (made[1][0] / runs.CHECKPOINT_FILE).is_file(), "the latest, in the second attempt, has no such file"
