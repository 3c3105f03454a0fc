"""Trials of several workers on a real Ray, alone and in a population whose members go on from each other's sharded checkpoints."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Cli, assert_no_processes, wait_for
from tests.support.studies import gang_members, reports, rows_of, tiny_study, what_came_of
from tests.support.tiny import make_encoder

pytestmark = pytest.mark.ray
STEPS, EVERY = 24, 8


def gang_study(folder: Path, *, count: int = 2, **more: Any) -> Path:
    """Of two workers a trial, sharded by ZeRO 2."""
    tree = tiny_study(folder, [str(make_encoder(folder / "encoder"))], STEPS)
    tree["recipe"] |= {"epochs": STEPS * 8 / 72, "workers": {"count": count, "cpus_each": 0.5}, "sharding": {"zero_stage": 2}}  # of 72 rows
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(tree | more), encoding="utf-8")
    return file


def population(folder: Path, **more: Any) -> Path:
    """Four members, the last of which cannot learn."""
    space = {"schedule.peak_lr": {"kind": "log_uniform", "low": 1e-9, "high": 1e-2}, "dropout": {"kind": "uniform", "low": 0.0, "high": 0.2}}
    first = [{"schedule.peak_lr": rate, "dropout": 0.0} for rate in (1e-2, 3e-3, 1e-3, 1e-9)]
    scheduler = {"kind": "pbt", "max_steps": STEPS, "exploit_every_steps": EVERY}
    return gang_study(folder, space=space, start_with=first, trials=4, concurrent=2, scheduler=scheduler, **more)


def test_a_trial_of_two_workers_ends_with_a_recipe_that_gives_its_score_exactly(cli: Cli, raybert_home: Path, tmp_path: Path) -> None:
    first = [{"schedule.peak_lr": 1e-2}, {"schedule.peak_lr": 1e30}]
    space = {"schedule.peak_lr": {"kind": "choice", "values": [1e-2, 1e30]}}
    scheduler = {"kind": "none", "max_steps": 16}
    file = gang_study(tmp_path, space=space, start_with=first, trials=2, scheduler=scheduler)
    ran = cli("tune", "-c", file, "recipe.guard.stop_after=2", "--name", "gangs", "--json", timeout_s=240)
    assert ran.exit_code == 0, ran.err
    good, bad = ran.json["trials"]
    assert (good["state"], good["step"]) == ("finished", 16)
    assert bad["state"] == "failed"
    assert "steps in a row could not be applied" in bad["cause"]
    assert not (raybert_home / "runs" / "gangs" / "passing" / "trial-000").exists()
    again = cli("finetune", "-c", ran.json["best_recipe"], "--json", timeout_s=120)
    assert again.exit_code == 0, again.err
    assert again.json["metrics"]["accuracy"] == good["score"]
    assert_no_processes(raybert_home)


def test_members_of_a_population_go_on_from_each_others_checkpoints_also_when_a_worker_and_the_driver_are_lost(
    cli: Cli, raybert_home: Path, tmp_path: Path
) -> None:
    file = population(tmp_path)
    ran = cli("tune", "-c", file, "--name", "pbt", "--json", timeout_s=420)
    assert ran.exit_code == 0, ran.err
    found = ran.json
    assert [(trial["state"], trial["step"]) for trial in found["trials"]] == [("finished", STEPS)] * 4
    rows = rows_of(raybert_home, "pbt")
    compared = [row for row in rows if row["event"] == "compared"]
    assert [row["step"] for row in compared] == [8, 16]
    assert "3" in compared[0]["exploits"], "the one that cannot learn"
    for row in compared:
        for number, exploit in row["exploits"].items():
            first = next(
                report for report in rows if report["event"] == "report" and report["number"] == int(number) and report["step"] > row["step"]
            )
            # The workers compared what they hold with it, bit for bit.
            assert f"trial-{exploit['donor']:03d}" in first["copied_from"]
    way = found["lineage"]
    assert (way[0]["since"], way[-1]["until"], way[-1]["member"]) == (0, STEPS, found["best"]["trial"])
    assert [one["until"] for one in way[:-1]] == [one["since"] for one in way[1:]]
    assert (found["best_recipe"], found["refit_recipe"]) == (None, None)
    done = cli("finetune", "-c", found["continued_recipe"], "--json", timeout_s=120)
    assert done.exit_code == 0, done.err
    assert (done.json["steps"], done.json["metrics"]["accuracy"]) == (STEPS, found["best"]["score"])

    seed = random.randrange(2**32)
    print(f"kills drawn with seed {seed}")
    chance, order = random.Random(seed), len(reports(raybert_home, "pbt"))
    process = cli.start("tune", "-c", file, "--name", "killed")
    worker_at, driver_at = sorted(chance.sample(range(1, order), 2))
    wait_for(lambda: len(reports(raybert_home, "killed")) >= worker_at and gang_members(raybert_home), 240, f"report {worker_at}")
    chance.choice(gang_members(raybert_home)).kill()
    wait_for(lambda: len(reports(raybert_home, "killed")) >= driver_at, 240, f"report {driver_at}")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
    assert_no_processes(raybert_home)
    again = cli("tune", "--resume", "killed", "--json", timeout_s=420)
    assert again.exit_code == 0, again.err
    assert what_came_of(again.json) == what_came_of(found)
    assert again.json["lineage"] == way
    assert_no_processes(raybert_home)
