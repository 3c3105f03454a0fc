"""A small study whose trials take a few seconds, and what its record tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from foundation.records import read_rows
from tests.conftest import processes_of
from tests.support.tiny import write_reviews
from training.checkpoint import Fragment, Progress, write_fragments, write_manifest

REPORT_EVERY = 8


def tiny_study(folder: Path, encoders: list[str], budget: int) -> dict[str, Any]:
    """Three trials of two encoders, under ASHA; the last of its first points cannot learn. ``budget``: steps of a whole trial."""
    return {
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
        "scheduler": {"kind": "asha", "max_steps": budget, "grace_steps": REPORT_EVERY, "reduction_factor": 2},
        "report_every_steps": REPORT_EVERY,
    }


def killable_study(folder: Path, encoders: list[str], budget: int) -> dict[str, Any]:
    """Five trials one at a time, so that reports come in one order; some fail by themselves."""
    tree = tiny_study(folder, encoders, budget)
    tree["recipe"] |= {"guard": {"stop_after": 2}, "epochs": budget * 8 / 72}  # of 72 rows, 8 a step
    tree["recipe"]["workers"]["max_failures"] = 100
    return tree | {
        "space": {
            "encoder": {"kind": "choice", "values": encoders},
            "schedule.peak_lr": {"kind": "choice", "values": [1e-2, 3e-3, 1e-9, 1e30]},
        },
        "start_with": [
            {"encoder": encoders[0], "schedule.peak_lr": 1e-2},
            {"encoder": encoders[0], "schedule.peak_lr": 1e30},  # fails by itself
        ],
        "trials": 5,
        "concurrent": 1,
        "sampler": {"kind": "tpe", "first_random": 3},
    }


def tiny_gang_study(folder: Path, encoder: str, budget: int, *, workers: int) -> dict[str, Any]:
    """Trials of several workers, sharded by ZeRO 2."""
    tree = tiny_study(folder, [encoder] * 2, budget)
    tree["recipe"] |= {"epochs": budget * 8 / 72, "sharding": {"zero_stage": 2}}  # of 72 rows, 8 a step
    tree["recipe"]["workers"] |= {"count": workers, "max_failures": 100}
    return tree


def tiny_population(
    folder: Path, encoder: str, budget: int, *, rates: Sequence[float], workers: int, every: int = REPORT_EVERY
) -> dict[str, Any]:
    """A member for each learning rate; of so few rows and steps, that which hardly moves is often the better one."""
    return tiny_gang_study(folder, encoder, budget, workers=workers) | {
        "space": {
            "schedule.peak_lr": {"kind": "log_uniform", "low": 1e-9, "high": 1e-2},
            "dropout": {"kind": "uniform", "low": 0.0, "high": 0.2},
        },
        "start_with": [{"schedule.peak_lr": rate, "dropout": 0.0} for rate in rates],
        "trials": len(rates),
        "scheduler": {"kind": "pbt", "max_steps": budget, "exploit_every_steps": every},
    }


def trial_workers(home: Path) -> list[psutil.Process]:
    """Processes in which a trial trains."""
    return [process for process in processes_of(home) if _trains(process)]


def _trains(process: psutil.Process) -> bool:
    try:
        return any(name in " ".join(process.cmdline()) for name in ("ImplicitFunc", "ray::Member"))
    except psutil.Error:
        return False  # it has ended since


def rows_of(home: Path, name: str) -> list[dict[str, Any]]:
    """A study's record."""
    return read_rows(home / "runs" / name / "study.jsonl")


def reports(home: Path, name: str) -> list[tuple[int, int]]:
    """Trial and step of each report, in their order."""
    return [(row["number"], row["step"]) for row in rows_of(home, name) if row["event"] == "report"]


def what_came_of(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What two studies have alike that ran as one another."""
    return [(trial["trial"], trial["sampled"], trial["step"], trial["score"], trial["state"]) for trial in result["trials"]]


def whole_checkpoint(folder: Path, step: int) -> Path:
    """A small one."""
    files = write_fragments(folder, 0, [Fragment("w", 0, {"param": torch.arange(6.0)})])
    write_manifest(folder, Progress(step, step), files, {"w": (6,)}, {})
    return folder
