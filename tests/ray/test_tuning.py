"""A study on a real Ray: trials side by side, one of them stopped early, a winner that a fine-tune goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from foundation.records import read_rows
from tests.conftest import Cli, assert_no_processes
from tests.support.tiny import make_encoder, write_reviews

pytestmark = pytest.mark.ray
BUDGET = 24


def study(folder: Path, encoders: list[str]) -> Path:
    """A study of three trials, the last of which cannot learn, and would be stopped at the first rung."""
    tree = {
        "recipe": {
            "encoder": encoders[0],
            "data": {"train": str(write_reviews(folder / "reviews.csv"))},
            "rows_per_step": 8,
            "epochs": 5,
            "max_length": 32,
            "dropout": 0.0,
            "metric": "accuracy",
            "workers": {"cpus_each": 0.5},
        },
        "space": {
            "encoder": {"kind": "choice", "values": encoders},
            "schedule.peak_lr": {"kind": "log_uniform", "low": 1e-9, "high": 1e-2},
        },
        "start_with": [
            {"encoder": encoders[0], "schedule.peak_lr": 1e-2},
            {"encoder": encoders[1], "schedule.peak_lr": 5e-3},
            {"encoder": encoders[1], "schedule.peak_lr": 1e-9},
        ],
        "trials": 3,
        "concurrent": 2,
        "scheduler": {"kind": "asha", "max_steps": BUDGET, "grace_steps": 8, "reduction_factor": 2},
        "report_every_steps": 8,
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return file


def test_a_study_ends_with_a_recipe_that_a_fine_tune_goes_on_from(cli: Cli, raybert_home: Path, tmp_path: Path) -> None:
    encoders = [str(make_encoder(tmp_path / f"encoder{seed}", seed=seed)) for seed in range(2)]
    ran = cli("tune", "-c", study(tmp_path, encoders), "--json", timeout_s=120)
    assert ran.exit_code == 0, ran.err
    found = ran.json
    trials: list[dict[str, Any]] = found["trials"]
    assert json.loads((Path(found["study_folder"]) / "study.json").read_text()) == found
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

    recipe = yaml.safe_load(Path(found["best_recipe"]).read_text())
    assert recipe["encoder"] == best["sampled"]["encoder"]
    assert Path(recipe["start_from"], "checkpoint.json").exists()
    tuned = cli("finetune", "-c", found["best_recipe"], "--json", timeout_s=90)
    assert tuned.exit_code == 0, tuned.err
    rows = read_rows(Path(tuned.json["run_folder"]) / "metrics.jsonl")
    steps = [row["step"] for row in rows if row["event"] == "step"]
    assert steps == list(range(best["step"], 45))  # 72 rows, 8 a step, 5 epochs

    # A trial that had the whole schedule leaves nothing to train: the fine-tune exports what it reached.
    done = cli("finetune", "-c", found["best_recipe"], f"stop_after_steps={best['step']}", "--json", timeout_s=90)
    assert done.exit_code == 0, done.err
    assert done.json["steps"] == best["step"]
    assert done.json["metrics"]["accuracy"] == pytest.approx(best["score"])
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
