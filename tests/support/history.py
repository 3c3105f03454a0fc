"""What a run with ``record_rows`` did, from its own records: attempts, worker processes, and the rows of the history that survived."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from corpus.order import rows_of_step
from foundation.records import read_rows
from training.checkpoint import Checkpoint
from training.runs import METRICS_FILE
from training.worker import APPLIED_FOLDER


def attempts(folder: Path) -> list[dict[str, Any]]:
    """The run's attempts in order: ``attempt``, ``step`` (its first), ``pid`` (of rank 0), …"""
    return [row for row in read_rows(folder / METRICS_FILE) if row["event"] == "attempt"]


def has_come_to(folder: Path, step: int, *, saved: int) -> bool:
    """Whether the run's record has so many steps, and the checkpoint that was begun after ``saved`` steps."""
    rows = read_rows(folder / METRICS_FILE)
    is_saved = any(row["event"] == "checkpoint" and row["step"] == saved for row in rows)
    return is_saved and any(row["event"] == "step" and row["step"] >= step for row in rows)


def workers(folder: Path) -> dict[int, int]:
    """Rank to process id in the last attempt."""
    last = attempts(folder)[-1]["attempt"]
    started = [row for file in (folder / APPLIED_FOLDER).glob(f"{last}-rank-*.jsonl") for row in read_rows(file)]
    return {row["rank"]: row["pid"] for row in started if row["event"] == "attempt"}


def surviving_rows(folder: Path) -> dict[int, Counter[str]]:
    """Step to the rows that were applied in it, over all ranks; what a later attempt did again replaces what an earlier one did."""
    made = attempts(folder)
    history: dict[int, Counter[str]] = {}
    for number, attempt in enumerate(made):
        end = made[number + 1]["step"] if number + 1 < len(made) else None
        for file in (folder / APPLIED_FOLDER).glob(f"{attempt['attempt']}-rank-*.jsonl"):
            for row in read_rows(file):
                if row["event"] == "applied" and (end is None or row["step"] < end):
                    assert row["is_applied"]
                    history.setdefault(row["step"], Counter()).update(row["rows"])
    return history


def expected_rows(ids: list[str], steps: int, *, rows_per_step: int, seed: int) -> dict[int, Counter[str]]:
    """What ``order`` gives for each step."""
    found = {}
    for step in range(steps):
        rows = rows_of_step(step, rows_per_step=rows_per_step, rows=len(ids), seed=seed)
        found[step] = Counter(f"{epoch}/{ids[row]}" for epoch, row in zip(rows.epochs, rows.rows, strict=True))
    return found


def surviving_losses(folder: Path) -> list[float]:
    """The loss of each step, as the last attempt that ran it found it."""
    losses = {row["step"]: row["loss"] for row in read_rows(folder / METRICS_FILE) if row["event"] == "step"}
    return [losses[step] for step in sorted(losses)]


def last_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint of a run's last step."""
    found = [Checkpoint.open(file.parent) for file in folder.glob("step-*/checkpoint.json")]
    return max(found, key=lambda checkpoint: checkpoint.progress.step)


def bits(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Every parameter and every tensor that the optimiser keeps, whole, by kind and name."""
    kinds = ("param", "exp_avg", "exp_avg_sq", "momentum_buffer")
    return {
        f"{kind} of {name}": checkpoint.read(kind, name) for name in checkpoint.shapes for kind in kinds if checkpoint.holds(kind, name)
    }


def differing_bits(found: Checkpoint, wanted: Checkpoint) -> list[str]:
    """What is not the same in two checkpoints, to the last bit."""
    ours, theirs = bits(found), bits(wanted)
    differing = [what for what in ours.keys() | theirs.keys() if what not in ours or what not in theirs]
    differing += [what for what in ours.keys() & theirs.keys() if not torch.equal(ours[what], theirs[what])]
    return sorted(differing + ["progress"] * (found.progress != wanted.progress))
