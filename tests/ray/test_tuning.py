"""A study on a real Ray: trials side by side, one of them stopped early, a winner that a fine-tune goes on from."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from corpus.shards import PackedRows
from encoder.config import NewModelConfig
from foundation.records import read_rows
from tests.conftest import Cli, assert_no_processes, wait_for
from tests.support.studies import killable_study, reports, rows_of, tiny_study, trial_workers, what_came_of
from tests.support.tiny import make_encoder, make_packed

pytestmark = pytest.mark.ray
BUDGET = 24


def study(folder: Path, encoders: list[str]) -> Path:
    """As a file."""
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(tiny_study(folder, encoders, BUDGET)), encoding="utf-8")
    return file


def test_a_study_ends_with_a_recipe_that_a_fine_tune_goes_on_from(cli: Cli, raybert_home: Path, tmp_path: Path) -> None:
    encoders = [str(make_encoder(tmp_path / f"encoder{seed}", seed=seed)) for seed in range(2)]
    ran = cli("tune", "-c", study(tmp_path, encoders), "--json", timeout_s=120)
    assert ran.exit_code == 0, ran.err
    found = ran.json
    trials: list[dict[str, Any]] = found["trials"]
    assert json.loads((Path(found["study_folder"]) / "result.json").read_text()) == found
    assert len(trials) == 3
    assert {trial["sampled"]["encoder"] for trial in trials} == set(encoders)
    assert {trial["state"] for trial in trials} <= {"finished", "stopped"}
    for trial in trials:
        assert trial["step"] % 8 == 0
        assert (trial["state"] == "finished") == (trial["step"] == BUDGET)
    best = found["best"]
    assert best["score"] == max(trial["score"] for trial in trials) > 0.6
    assert best["sampled"]["schedule.peak_lr"] > 1e-3
    for number, trial in enumerate(trials):
        assert f"trial {trial['trial']}" in ran.err, number

    assert "Optimisation history" in Path(found["report"]).read_text()
    told = cli("tune", "report", found["study_id"], "--csv")
    assert [line.split(",")[0] for line in told.out.splitlines()] == ["trial", "0", "1", "2"]

    # In MLflow, a run for each below the study's.
    client = MlflowClient(f"sqlite:///{raybert_home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("raybert").experiment_id
    below = client.search_runs([experiment], f"tags.`raybert.study` = '{found['study_id']}'")
    assert {int(run.data.tags["raybert.trial"]): run.data.params for run in below} == {
        trial["trial"]: {key: str(value) for key, value in trial["sampled"].items()} for trial in trials
    }
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in below}
    assert client.get_run(parent).info.status == "FINISHED"
    (winner,) = [run for run in below if run.data.tags["raybert.trial"] == str(best["trial"])]
    assert max(point.value for point in client.get_metric_history(winner.info.run_id, "accuracy")) == best["score"]

    # Anew, from the first step: the score exactly.
    recipe = yaml.safe_load(Path(found["best_recipe"]).read_text())
    assert (recipe["encoder"], recipe["start_from"]) == (best["sampled"]["encoder"], None)
    assert found["study_id"] not in Path(found["best_recipe"]).read_text()
    again = cli("finetune", "-c", found["best_recipe"], "register_as=winner", "--json", timeout_s=90)
    assert again.exit_code == 0, again.err
    assert cli("models", "show", again.json["version"], "--json").json["study"] == found["study_id"]
    assert (again.json["metrics"]["accuracy"], again.json["steps"]) == (best["score"], best["best_step"])

    # Anew on validation rows as well, which tell nothing then: one checkpoint, as many passes in.
    refit = cli("finetune", "-c", found["refit_recipe"], "--json", timeout_s=90)
    assert refit.exit_code == 0, refit.err
    assert "which flatters every figure but of test rows" in refit.err
    assert refit.json["steps"] == math.ceil(best["best_step"] * 80 / 72)  # 8 of 80 rows are held back

    # From the winner's checkpoint, to the end of the schedule.
    tuned = cli("finetune", "-c", found["continued_recipe"], "--json", timeout_s=90)
    assert tuned.exit_code == 0, tuned.err
    rows = read_rows(Path(tuned.json["run_folder"]) / "metrics.jsonl")
    steps = [row["step"] for row in rows if row["event"] == "step"]
    assert steps == list(range(best["step"], 45))  # 72 rows, 8 a step, 5 epochs

    # A trial that had the whole schedule leaves nothing to train: the fine-tune exports what it reached.
    done = cli("finetune", "-c", found["continued_recipe"], f"stop_after_steps={best['step']}", "--json", timeout_s=90)
    assert done.exit_code == 0, done.err
    assert done.json["steps"] == best["step"]
    reports = [row for row in read_rows(Path(found["study_folder"]) / "study.jsonl") if row["event"] == "report"]
    last = [row["score"] for row in reports if row["number"] == best["trial"]][-1]
    assert done.json["metrics"]["accuracy"] == pytest.approx(last)
    assert_no_processes(raybert_home)


def test_a_grid_is_tried_whole_and_a_trial_below_the_median_is_stopped(cli: Cli, raybert_home: Path, tmp_path: Path) -> None:
    encoder = str(make_encoder(tmp_path / "encoder"))
    tree = yaml.safe_load(study(tmp_path, [encoder, encoder]).read_text())
    tree |= {
        "space": {
            "schedule.decay": {"kind": "choice", "values": ["linear", "cosine"]},
            "schedule.peak_lr": {"kind": "choice", "values": [1e-2, 1e-9]},
        },
        "start_with": [{"schedule.decay": "cosine", "schedule.peak_lr": 1e-2}],
        "sampler": {"kind": "grid"},
        "trials": 4,
        "concurrent": 1,  # those before are finished, and there is a median
        "scheduler": {"kind": "median_stop", "max_steps": 4 * BUDGET, "grace_steps": 32, "least_trials": 1},
        "report_every_steps": 32,
    }
    tree["recipe"]["epochs"] = 12
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    plan = cli("tune", "-c", file, "--dry-run", "--json").json
    assert (plan["rungs"], plan["steps_at_most"]) == ([32], 16 * BUDGET)
    ran = cli("tune", "-c", file, "--json", timeout_s=150)
    assert ran.exit_code == 0, ran.err
    trials = ran.json["trials"]
    points = {(trial["sampled"]["schedule.decay"], trial["sampled"]["schedule.peak_lr"]) for trial in trials}
    assert points == {(decay, rate) for decay in ("linear", "cosine") for rate in (1e-2, 1e-9)}
    assert trials[0]["sampled"] == tree["start_with"][0]
    stopped = [trial for trial in trials if trial["state"] == "stopped"]
    assert stopped, ran.err
    assert {trial["sampled"]["schedule.peak_lr"] for trial in stopped} == {1e-9}
    assert_no_processes(raybert_home)


def test_a_study_ends_when_its_budget_is_spent_and_goes_on_with_a_larger_one(cli: Cli, raybert_home: Path, tmp_path: Path) -> None:
    encoder = str(make_encoder(tmp_path / "encoder"))
    file = study(tmp_path, [encoder, encoder])
    more = ["trials=20", "concurrent=1", "scheduler={kind: none, max_steps: 24}"]
    ran = cli("tune", "-c", file, "--name", "b", *more, "budget={steps: 32}", "--json", timeout_s=120)
    assert ran.exit_code == 0, ran.err
    assert ran.json["spent"]["steps"] == 32
    assert [(trial["state"], trial["step"]) for trial in ran.json["trials"]] == [("finished", 24), ("stopped", 8)]
    assert "budget 100%" in ran.err
    assert "the budget is spent (steps 32 of 32), and 2 of 20 trials were begun" in ran.err

    # A larger budget, and the best with other seeds; its driver goes while those train.
    process = cli.start("tune", "--resume", "b", "budget.steps=40", "repeat={top: 2, seeds: 2}")
    wait_for(lambda: any("seed" in row for row in rows_of(raybert_home, "b") if row["event"] == "report"), 120, "a repeat's report")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
    assert_no_processes(raybert_home)
    again = cli("tune", "--resume", "b", "--json", timeout_s=120)
    assert again.exit_code == 0, again.err
    assert [(trial["state"], trial["step"]) for trial in again.json["trials"]] == [("finished", 24), ("stopped", 8), ("stopped", 8)]
    repeated = again.json["repeated"]
    assert [[*item["scores"]] for item in repeated] == [["1", "2"]] * 2
    assert again.json["best"]["trial"] == repeated[0]["trial"]
    last = {(row["number"], row["seed"]): row["step"] for row in rows_of(raybert_home, "b") if row["event"] == "report" and "seed" in row}
    assert set(last.values()) <= {24, 8}  # each as far as the trial went
    assert not [*(raybert_home / "runs" / "b").glob("repeats-*")]
    assert "With other seeds" in Path(again.json["report"]).read_text()
    done = cli("tune", "--resume", "b")
    assert (done.exit_code, "its budget is spent" in done.error) == (2, True)
    assert_no_processes(raybert_home)


def test_a_study_of_a_pretraining_finds_a_model_from_scratch_that_pretrain_makes_anew(cli: Cli, raybert_home: Path, tmp_path: Path) -> None:
    packed = make_packed(tmp_path / "packed", make_encoder(tmp_path / "encoder"))
    tree = {
        "recipe": {
            "data": str(packed),
            "new_model": {"layers": 1, "hidden": 16, "heads": 2},
            "steps": BUDGET,
            "rows_per_step": 4,
            "workers": {"cpus_each": 0.5},
        },
        "space": {
            "new_model.hidden": {"kind": "choice", "values": [16, 32]},
            "schedule.peak_lr": {"kind": "log_uniform", "low": 1e-4, "high": 1e-2},
        },
        "start_with": [{"new_model.hidden": 32, "schedule.peak_lr": 1e-2}, {"new_model.hidden": 16, "schedule.peak_lr": 1e-3}],
        "trials": 3,
        "scheduler": {"kind": "none", "max_steps": 16},
        "report_every_steps": 8,
        "constraints": {
            "size_mb": 1.5e-6
            * 4
            * NewModelConfig(layers=1, hidden=16, heads=2).parameters(PackedRows.open(packed).manifest.tokenizer.vocabulary)
        },
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    ran = cli("tune", "-c", file, timeout_s=120)
    assert ran.exit_code == 0, ran.err
    (result,) = raybert_home.glob("runs/tune-*/result.json")
    found = json.loads(result.read_text())
    assert (found["metric"], found["mode"]) == ("validation_loss", "min")
    large, *others = found["trials"]
    assert (large["state"], large["step"], [*large["over"]]) == ("stopped", 8, ["size_mb"])
    assert found["best"]["score"] == min(trial["score"] for trial in others if not trial["over"])
    assert f"next: raybert pretrain -c {found['best_recipe']}" in ran.out
    again = cli("pretrain", "-c", found["best_recipe"], "--json", timeout_s=90)
    assert again.exit_code == 0, again.err
    assert again.json["metrics"]["validation_loss"] == found["best"]["score"]
    assert_no_processes(raybert_home)


def test_a_study_that_loses_a_worker_and_its_driver_goes_on_as_if_nothing_had_happened(
    cli: Cli, raybert_home: Path, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"kills drawn with seed {seed}")
    chance = random.Random(seed)
    encoders = [str(make_encoder(tmp_path / f"encoder{seed}", seed=seed)) for seed in range(2)]
    tree = killable_study(tmp_path, encoders, 4 * BUDGET)
    file = tmp_path / "kills.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    undisturbed = cli("tune", "-c", file, "--name", "undisturbed", "--json", timeout_s=150)
    assert undisturbed.exit_code == 0, undisturbed.err
    expected = undisturbed.json
    failed = [trial for trial in expected["trials"] if trial["state"] == "failed"]
    assert {trial["sampled"]["schedule.peak_lr"] for trial in failed} == {1e30}
    assert (failed[0]["trial"], failed[0]["score"]) == (1, None)
    assert "steps in a row could not be applied" in failed[0]["cause"]
    order = reports(raybert_home, "undisturbed")

    process = cli.start("tune", "-c", file, "--name", "killed")
    # Its trial goes on for a while after that.
    worker_at = chance.choice([place for place in range(len(order) - 4) if order[place][0] == order[place + 4][0]])
    driver_at = chance.randrange(worker_at + 5, len(order))
    reported: Callable[[], int] = lambda: len(reports(raybert_home, "killed"))  # noqa: E731
    wait_for(lambda: reported() > worker_at and trial_workers(raybert_home), 120, f"report {worker_at}")
    trial_workers(raybert_home)[0].kill()
    wait_for(lambda: reported() > driver_at, 120, f"report {driver_at}")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
    assert_no_processes(raybert_home)

    other = cli("tune", "--resume", "killed", "space.encoder.kind=choice", "seed=1")
    assert (other.exit_code, "seed: was 0, now 1" in other.error) == (2, True)
    plan = cli("tune", "--resume", "killed", "--dry-run", "--json").json["resumes"]
    ran = cli("tune", "--resume", "killed", "--json", timeout_s=150)
    assert ran.exit_code == 0, ran.err
    assert what_came_of(ran.json) == what_came_of(expected)
    assert reports(raybert_home, "killed") == order
    assert sum(trial["restarts"] for trial in ran.json["trials"]) == len(plan["unfinished"]) + 1
    assert Path(ran.json["best_recipe"]).read_text() == Path(expected["best_recipe"]).read_text()
    winner = yaml.safe_load(Path(ran.json["continued_recipe"]).read_text())
    assert Path(winner["start_from"], "checkpoint.json").exists()
    done = cli("tune", "--resume", "killed")
    assert (done.exit_code, "has finished its 5 trials; to go on, ask for more: trials=10" in done.error) == (2, True)
    assert_no_processes(raybert_home)
