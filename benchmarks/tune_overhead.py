"""Wall time of a study against the same trials in plain processes, two at once, and against Ray Tune with a ``TorchTrainer`` in each trial.

Fine-tunings of MiniLM on movie reviews, one thread each, each at its own learning rate. Ours is the whole command, private Ray, report and
MLflow included; the plain processes import once, train their half of the trials one after the other, and keep nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import HERE, call, environment, run
from benchmarks.recovery import reviews
from benchmarks.rows import Row, Samples, goal_of, row
from benchmarks.texts import TOKENIZER
from foundation.records import read_rows
from foundation.references import resolve

NAME = "tune_overhead"
TRIALS, QUICK_TRIALS = 16, 4
AT_ONCE = 2
STEPS, EVERY = 36, 18
"""Of each trial, half a minute on one thread; and between its evaluations."""
ROWS_PER_STEP, LONGEST, VALIDATION = 32, 64, 0.05
LOWEST, HIGHEST = 2e-5, 2e-4
"""Learning rates."""


def measure(quick: bool) -> list[Row]:
    """Three rows."""
    trials = QUICK_TRIALS if quick else TRIALS
    rates = [LOWEST * (HIGHEST / LOWEST) ** (number / (trials - 1)) for number in range(trials)]
    with tempfile.TemporaryDirectory(prefix="raybert-tune-") as name:
        scratch = Path(name)
        recipe = {
            "data": {"train": str(reviews(scratch)), "validation_fraction": VALIDATION},
            "encoder": resolve(TOKENIZER).location,
            "rows_per_step": ROWS_PER_STEP,
            "max_length": LONGEST,
            "epochs": 1,
            "dropout": 0.0,
            "metric": "accuracy",
        }
        spec = {"recipe": recipe, "encoder": recipe["encoder"], "rates": rates, "steps": STEPS, "every": EVERY}
        plain_s = plain(spec, scratch)
        ours_s, starts = ours(recipe, rates, scratch)
        nested_s, nested_starts = nested(spec, scratch)
    each = AT_ONCE * plain_s / trials
    told = (
        f"{trials} fine-tunings of MiniLM, {STEPS} steps of {ROWS_PER_STEP} rows of at most {LONGEST} tokens, {each:.0f} s each in a plain "
        f"process, {AT_ONCE} at once, one thread each."
    )
    begun = f"the first {AT_ONCE}, which start their workers: {', '.join(f'{start:.1f}' for start in starts[:AT_ONCE])} s"
    return [
        _row("wall_time", (ours_s,), (plain_s,), f"{told} Ours: the whole command. Peer: plain processes that import once.", "plain"),
        _row("wall_time_of_nested", (ours_s,), (nested_s,), f"{told} Peer: Ray Tune with a TorchTrainer of one worker in each.", "nested"),
        _row(
            "trial_start",
            tuple(starts),
            tuple(nested_starts),
            f"From the moment that a trial has its hyperparameters to its first step; {begun}. Peer: from the beginning of its trial.",
            "nested",
        ),
    ]


def ours(recipe: dict[str, Any], rates: list[float], scratch: Path) -> tuple[float, list[float]]:
    """Seconds of the command; and of each trial from its hyperparameters to its first step."""
    study = {
        "recipe": recipe,
        "space": {"schedule.peak_lr": {"kind": "log_uniform", "low": LOWEST, "high": HIGHEST}},
        "start_with": [{"schedule.peak_lr": min(HIGHEST, rate)} for rate in rates],
        "trials": len(rates),
        "concurrent": AT_ONCE,
        "scheduler": {"kind": "none", "max_steps": STEPS},
        "report_every_steps": EVERY,
    }
    file = scratch / "study.yaml"
    file.write_text(yaml.safe_dump(study), encoding="utf-8")
    command = [sys.executable, "-m", "raybert", "tune", "-c", str(file), "--name", "s", "--json"]
    began = time.monotonic()
    done = subprocess.run(
        command, env=environment(1) | {"RAYBERT_HOME": str(scratch / "home")}, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"{NAME}: exit code {done.returncode}\n{done.stderr[-4000:]}")
    rows = read_rows(scratch / "home" / "runs" / "s" / "study.jsonl")
    asked = {found["number"]: found["time"] for found in rows if found["event"] == "trial"}
    first = {found["number"]: found for found in reversed(rows) if found["event"] == "report"}
    starts = [first[number]["time"] - first[number]["trial_seconds"] + first[number]["start_seconds"] - at for number, at in asked.items()]
    return seconds, starts


def plain(spec: dict[str, Any], scratch: Path) -> float:
    """Seconds until both processes have trained their half."""
    halves = [{**spec, "mode": "plain", "folder": str(scratch), "rates": spec["rates"][place::AT_ONCE]} for place in range(AT_ONCE)]
    began = time.monotonic()
    processes = [
        subprocess.Popen(program(half), env=environment(1), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for half in halves
    ]
    told = [process.communicate()[1] for process in processes]
    if failed := [text for process, text in zip(processes, told, strict=True) if process.returncode]:
        raise RuntimeError(f"{NAME}: a plain process failed\n{failed[0][-4000:]}")
    return time.monotonic() - began


def nested(spec: dict[str, Any], scratch: Path) -> tuple[float, list[float]]:
    """Seconds of the program; and of each trial from its beginning to its first step."""
    folder = scratch / "nested"
    folder.mkdir()
    began = time.monotonic()
    found = call(program({**spec, "mode": "nested", "folder": str(folder)}), threads=1)
    return time.monotonic() - began, found["starts"]


def program(spec: dict[str, Any]) -> list[str]:
    """The peers' command line."""
    return [sys.executable, str(HERE / "programs" / "trial_runs.py"), json.dumps(spec)]


def _row(name: str, ours: tuple[float, ...], peer: tuple[float, ...], note: str, mode: str) -> Row:
    return row(
        name,
        Samples(ours, peer),
        goal_of(NAME, name),
        note=note,
        commands={"ours": "raybert tune", "peer": f"python benchmarks/programs/trial_runs.py ({mode})"},
        threads={"ours": 1, "peer": 1},
        peer_versions={package: metadata.version(package) for package in ("ray", "torch")},
    )


if __name__ == "__main__":
    sys.exit(run(NAME, measure))
