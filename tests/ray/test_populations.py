"""Trials of several workers on a real Ray, alone and in a population whose members go on from each other's sharded checkpoints."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Cli, assert_no_processes, wait_for
from tests.support.studies import REPORT_EVERY, reports, rows_of, tiny_gang_study, tiny_population, trial_workers, what_came_of
from tests.support.tiny import make_encoder

pytestmark = pytest.mark.ray
STEPS = 24


def written(folder: Path, tree: dict[str, Any]) -> Path:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return file


def population(folder: Path, *, steps: int, workers: int) -> Path:
    tree = tiny_population(folder, str(make_encoder(folder / "encoder")), steps, rates=(1e-2, 3e-3, 1e-9), workers=workers)
    return written(folder, tree | {"concurrent": 3 - workers})


def test_trials_of_two_workers_hand_on_their_gang_and_end_with_a_recipe_that_gives_the_best_score_exactly(
    cli: Cli, raybert_home: Path, tmp_path: Path
) -> None:
    rates = [1e-9, 1e-2, 1e30]  # the first hardly moves, and of so few rows and steps is the better one
    first = [{"schedule.peak_lr": rate} for rate in rates]
    space = {"schedule.peak_lr": {"kind": "choice", "values": rates}}
    scheduler = {"kind": "asha", "max_steps": 16, "grace_steps": REPORT_EVERY}
    asked = {"space": space, "start_with": first, "trials": 3, "concurrent": 1, "scheduler": scheduler}
    file = written(tmp_path, tiny_gang_study(tmp_path, str(make_encoder(tmp_path / "encoder")), STEPS, workers=2) | asked)
    ran = cli("tune", "-c", file, "recipe.guard.stop_after=2", "--name", "gangs", "--json", timeout_s=240)
    assert ran.exit_code == 0, ran.err
    good, poor, bad = ran.json["trials"]
    assert [(trial["state"], trial["step"]) for trial in (good, poor, bad)] == [("finished", 16), ("stopped", 8), ("failed", 0)]
    assert "steps in a row could not be applied" in bad["cause"]
    gangs = {tuple(row["gang"]) for row in rows_of(raybert_home, "gangs") if row["event"] == "report"}
    assert [len(gang) for gang in gangs] == [2]
    assert not (raybert_home / "runs" / "gangs" / "passing" / "trial-000").exists()
    again = cli("finetune", "-c", ran.json["best_recipe"], "--json", timeout_s=120)
    assert again.exit_code == 0, again.err
    assert again.json["metrics"]["accuracy"] == good["score"]
    assert_no_processes(raybert_home)


def test_members_of_a_population_go_on_from_each_others_sharded_checkpoints(cli: Cli, raybert_home: Path, tmp_path: Path) -> None:
    ran = cli("tune", "-c", population(tmp_path, steps=16, workers=2), "--name", "pbt", "--json", timeout_s=300)
    assert ran.exit_code == 0, ran.err
    found = ran.json
    assert [(trial["state"], trial["step"]) for trial in found["trials"]] == [("finished", 16)] * 3
    rows = rows_of(raybert_home, "pbt")
    (compared,) = [row for row in rows if row["event"] == "compared"]
    assert compared["step"] == 8
    ((number, exploit),) = compared["exploits"].items()
    told = {(row["number"], row["step"]): row for row in rows if row["event"] == "report"}
    donor, at_8 = exploit["donor"], {number: row["score"] for (number, step), row in told.items() if step == 8}
    assert (at_8[int(number)], at_8[donor]) == (min(at_8.values()), max(at_8.values()))
    first = told[int(number), 16]
    # Its workers compared what they held with that, bit for bit.
    assert f"/trial-{donor:03d}/" in first["copied_from"]
    way = found["lineage"]
    assert (way[0]["since"], way[-1]["until"], way[-1]["member"]) == (0, 16, found["best"]["trial"])
    assert (found["best_recipe"], found["refit_recipe"]) == (None, None)
    page = Path(found["report"]).read_text()
    assert "The winner's way" in page
    assert "Copies" in page
    done = cli("finetune", "-c", found["continued_recipe"], f"stop_after_steps={16}", "--json", timeout_s=120)
    assert done.exit_code == 0, done.err
    assert (done.json["steps"], done.json["metrics"]["accuracy"]) == (16, found["best"]["score"])
    assert_no_processes(raybert_home)


def test_a_population_that_loses_a_worker_and_its_driver_ends_as_if_nothing_had_happened(
    cli: Cli, raybert_home: Path, tmp_path: Path
) -> None:
    file = population(tmp_path, steps=STEPS, workers=1)
    undisturbed = cli("tune", "-c", file, "--name", "undisturbed", "--json", timeout_s=240)
    assert undisturbed.exit_code == 0, undisturbed.err
    assert len(reports(raybert_home, "undisturbed")) == 9
    seed = random.randrange(2**32)
    print(f"kills drawn with seed {seed}")
    worker_at, driver_at = sorted(random.Random(seed).sample(range(1, 8), 2))
    process = cli.start("tune", "-c", file, "--name", "killed")
    reported: Callable[[], int] = lambda: len(reports(raybert_home, "killed"))  # noqa: E731
    wait_for(lambda: reported() >= worker_at and trial_workers(raybert_home), 120, f"report {worker_at}")
    trial_workers(raybert_home)[0].kill()
    wait_for(lambda: reported() >= driver_at, 120, f"report {driver_at}")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
    # A worker that was just starting looks for its node for up to a minute.
    assert_no_processes(raybert_home, within_s=90)
    again = cli("tune", "--resume", "killed", "--json", timeout_s=240)
    assert again.exit_code == 0, again.err
    assert what_came_of(again.json) == what_came_of(undisturbed.json)
    assert again.json["lineage"] == undisturbed.json["lineage"]
    assert_no_processes(raybert_home)
