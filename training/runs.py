"""A training run's folder: which files are in it, what they say. Reads only; no torch, no Ray.

``run.json`` is the driver's (what was planned, how it stands), ``metrics.jsonl`` rank 0's, ``result.json`` comes when the run has finished.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from foundation import driving
from foundation.driving import Driven
from foundation.home import Home, home
from foundation.records import Recorder, read_rows
from training.goodput import Goodput, goodput
from training.phases import PhaseTime, phase_table

METRICS_FILE = "metrics.jsonl"
RUN_FILE = "run.json"
RESULT_FILE = "result.json"
RECIPE_FILE = "recipe.yaml"
CHECKPOINT_FILE = "checkpoint.json"
"""Written last in a checkpoint's folder: without it, the writing was cut off."""
TOKENS_FOLDER = "tokens"
"""Token ids of labelled rows, while the run may begin again."""
REPORT_FILE = "report.html"
TRACE_FILE = "trace.json.gz"
VERBS = ("pretrain", "finetune")
UNRANKED = 1e300
"""Stands, with the sign of the worse side, for the score of a checkpoint that has none. Not NaN: Ray Train's list of checkpoints would give
back None for it when a run is resumed, and fail."""
_CHECKPOINT = re.compile(r"step-(\d+)-\w+")


def begin(folder: Path, plan: Mapping[str, Any], *, score: str, score_order: str, mlflow_run: str | None = None) -> None:
    """Write down that a run has begun, by this process."""
    driving.begin(folder / RUN_FILE, score=score, score_order=score_order, mlflow_run=mlflow_run, plan=dict(plan))


def go_on(folder: Path, plan: Mapping[str, Any], *, mlflow_run: str | None = None) -> None:
    """Write down that this process goes on with a run, in ``run.json`` and as a row of the record."""
    driving.go_on(folder / RUN_FILE, mlflow_run=mlflow_run, plan=dict(plan))
    recorder = Recorder(folder / METRICS_FILE)
    recorder.write("resumed", host=socket.gethostname(), pid=os.getpid(), changes=plan["resumes"]["changes"])
    recorder.close()


def end(folder: Path, state: str) -> None:
    """Write down how a run ended: ``finished``, ``failed`` or ``interrupted``."""
    driving.end(folder / RUN_FILE, state)


def checkpoints(folder: Path) -> list[Path]:
    """Folders of a run's checkpoints, whole or not, that of the most steps first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _CHECKPOINT.fullmatch(path.name)) and path.is_dir()]
    return [path for _, path in sorted(found, reverse=True)]


def checkpoints_up_to(latest: Path) -> list[Path]:
    """``latest``, whether it is there or not, then the run's checkpoints of fewer steps, that of the most first."""
    return [latest, *(path for path in checkpoints(latest.parent) if step_of(path) < step_of(latest))]


def step_of(checkpoint: Path) -> int:
    """Steps that were done when a checkpoint was written, from its folder's name."""
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


@dataclass(frozen=True)
class Run(Driven):
    """A run as its folder tells it; ``about`` is ``run.json``."""

    @cached_property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """``metrics.jsonl``, read when it is first asked for."""
        return tuple(read_rows(self.folder / METRICS_FILE))

    @property
    def run_id(self) -> str:
        """Also the folder's name."""
        return self.folder.name

    @property
    def steps_done(self) -> int:
        """Of the last attempt."""
        return max((row["step"] + 1 if row["event"] == "step" else row["step"] for row in self._last_attempt()), default=0)

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Their rows."""
        return [row for row in self.rows if row["event"] == "attempt"]

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the evaluation with the best score, the earliest of equals."""
        rows = [row for row in self.surviving("evaluation") if self.about["score"] in row]
        sign = 1 if self.about["score_order"] == "max" else -1
        return max(rows, key=lambda row: sign * row[self.about["score"]], default=None)

    def surviving(self, event: str) -> list[dict[str, Any]]:
        """Rows of ``event`` by step; of a step that was done again after a restart, the last."""
        found = {row["step"]: row for row in self.rows if row["event"] == event}
        return [found[step] for step in sorted(found)]

    def goodput(self) -> Goodput:
        """Where its time went so far."""
        return goodput(self.rows, started=self.about["started"], ended=self.about["ended"])

    def phases(self) -> tuple[PhaseTime, ...]:
        """Where a mean step went; empty without ``--profile``."""
        return phase_table(self.rows)

    def brief(self) -> dict[str, Any]:
        """What ``runs list`` tells; of a finished run without reading its record."""
        metric, best = self.about["score"], self.result["metrics"] if self.result else self.best or {}
        done = self.plan["steps"] if self.result else self.steps_done
        told = {"run_id": self.run_id, "verb": self.plan["verb"], "state": self.state, "started": self.about["started"]}
        return told | {"steps_done": done, "steps": self.plan["steps"], "metric": metric, "score": best.get(metric)}

    def figures(self) -> dict[str, Any]:
        """What ``runs show`` tells."""
        best = self.best
        steps = self.surviving("step")
        seconds = sum(row["seconds"] for row in steps)
        return {
            "run_id": self.run_id,
            "verb": self.plan["verb"],
            "state": self.state,
            "steps": self.plan["steps"] if not self.attempts else self.attempts[-1]["steps"],
            "steps_done": self.steps_done,
            "score": {"metric": self.about["score"], "best": best and best[self.about["score"]], "step": best and best["step"]},
            "loss": steps[-1]["loss"] if steps else None,
            "tokens_per_s": round(sum(row["tokens"] for row in steps) / seconds, 1) if seconds else None,
            "mfu": _mean([row["mfu"] for row in steps if "mfu" in row]),
            "memory_bytes": max((row.get("memory_bytes", 0) for row in self.rows), default=0),
            "workers": self.attempts[-1]["world_size"] if self.attempts else 0,
            "restarts": max(0, len(self.attempts) - 1),
            "skipped_steps": sum(not row["is_applied"] for row in steps),
            "started": self.about["started"],
            "ended": self.about["ended"],
            "goodput": self.goodput().as_json(),
            "phases": [asdict(row) for row in self.phases()],
            "data_fingerprint": (self.result or self.plan).get("data_fingerprint"),
            "folder": str(self.folder),
            "report": str(report) if (report := self.folder / REPORT_FILE).exists() else None,
        }

    def _last_attempt(self) -> list[dict[str, Any]]:
        first = max((place for place, row in enumerate(self.rows) if row["event"] == "attempt"), default=0)
        return [row for row in self.rows[first:] if row["event"] in ("attempt", "step", "evaluation")]


def open_run(ref: str, where: Home | None = None) -> Run:
    """A run by its id, an unambiguous part of it, or its folder.

    Raises:
        DataError: No such run, or several.
    """
    root = (where or home()).runs
    return _read(driving.named(ref, root, RUN_FILE, what="run", plural="runs", hint="`raybert runs list` lists them"))


def all_runs(where: Home | None = None) -> list[Run]:
    """The runs of a home, the latest first."""
    return sorted((_read(folder) for folder in driving.folders((where or home()).runs, RUN_FILE)), key=lambda run: -run.about["started"])


def _read(folder: Path) -> Run:
    return Run(folder, *driving.read(folder, RUN_FILE, RESULT_FILE, "run"))


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
