"""What of the runs of a home can go: checkpoints of runs that have finished, or whole runs that have ended. No torch, no Ray.

A finished run's checkpoints are most of its bytes, and nothing but ``start_from`` needs them any more. A run that was stopped, failed or
lost its driver can be gone on with, so its checkpoints go only with the whole run. Models in the registry have copies of their own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.driving import RESUMABLE
from foundation.errors import ConfigError
from foundation.home import Home, home
from training.runs import Run, all_runs, checkpoints

_STATES = ("finished", *RESUMABLE)
_GOING = ".going-"
DAY_S = 86_400.0


@dataclass(frozen=True)
class Gone:
    """What goes of one run."""

    run_id: str
    state: str
    what: str
    """``checkpoints`` or ``run``."""
    bytes: int


@dataclass(frozen=True)
class Kept:
    """A run of which nothing goes."""

    run_id: str
    reason: str


@dataclass(frozen=True)
class Pruning:
    """What went, or would go."""

    gone: tuple[Gone, ...]
    kept: tuple[Kept, ...]

    @property
    def bytes(self) -> int:
        """In all."""
        return sum(item.bytes for item in self.gone)


def prune(
    chosen: Sequence[Run] | None = None,
    *,
    older_than_s: float = 0.0,
    states: Collection[str] = (),
    whole: bool = False,
    dry_run: bool = False,
    where: Home | None = None,
) -> Pruning:
    """Remove checkpoints of finished runs, or whole runs.

    Args:
        chosen: Runs to look at; None is all of the home.
        older_than_s: Only runs that ended so long ago.
        states: Only runs of these states; empty is all.
        whole: Remove all that a run left, in whatever state it ended, unless a run that stays began from its bundle or a checkpoint.
        dry_run: Remove nothing.
        where: The home.

    Raises:
        ConfigError: A state that no run can be in.
    """
    if unknown := sorted(set(states) - set(_STATES)):
        raise ConfigError(f"--state: found {unknown[0]!r}; expected one of {', '.join(_STATES)}")
    every = all_runs(where)
    looked_at = {run.folder for run in (every if chosen is None else chosen)}
    gone: list[Run] = []
    kept: list[Kept] = []
    for run in (run for run in every if run.folder in looked_at):
        if reason := _stays(run, older_than_s, states, whole):
            kept.append(Kept(run.run_id, reason))
        else:
            gone.append(run)
    gone = _not_referred_to(gone, every, kept, whole=whole)
    told = tuple(_remove(run, whole=whole, dry_run=dry_run) for run in gone)
    if not dry_run:
        for left in (where or home()).runs.glob(f"{_GOING}*"):
            shutil.rmtree(left, ignore_errors=True)
    return Pruning(told, tuple(kept))


def _stays(run: Run, older_than_s: float, states: Collection[str], whole: bool) -> str | None:
    state = run.state
    if state == "running":
        return "is running"
    if states and state not in states:
        return f"is {state}"
    if time.time() - _ended(run) < older_than_s:
        return f"ended less than {older_than_s / DAY_S:g} days ago"
    if whole:
        return None
    if state != "finished":
        return f"is {state}, but could be gone on with"
    return None if checkpoints(run.folder) else "has no checkpoints"


def _ended(run: Run) -> float:
    """Unix seconds; of a run that ended without a word, when it last wrote."""
    return float(run.about["ended"] or max(path.stat().st_mtime for path in (run.folder, *run.folder.glob("*.json*"))))


def _not_referred_to(gone: Iterable[Run], every: Iterable[Run], kept: list[Kept], *, whole: bool) -> list[Run]:
    """Those of ``gone`` from which no run began that stays, or of checkpoints, that may yet need them; the others are added to ``kept``."""
    going = {run.folder: run for run in gone}
    keys = ("encoder", "start_from") if whole else ("start_from",)
    # Of checkpoints, only a run that could be gone on with needs any; what goes whole needs nothing.
    every = [run for run in every if whole or run.state != "finished"]
    while True:
        users = [run for run in every if not whole or run.folder not in going]
        held = next(((run, user) for run in going.values() for user in users if _names(user.plan["recipe"], keys, run.folder)), None)
        if held is None:
            return [*going.values()]
        run, user = held
        del going[run.folder]
        kept.append(Kept(run.run_id, f"{user.run_id} began from it"))


def _names(recipe: dict[str, Any], keys: Collection[str], folder: Path) -> bool:
    """Whether what a recipe says under one of the keys lies in the folder."""
    return any(isinstance(value := recipe.get(key), str) and Path(value).is_relative_to(folder) for key in keys)


def _remove(run: Run, *, whole: bool, dry_run: bool) -> Gone:
    folders = [run.folder] if whole else checkpoints(run.folder)
    told = Gone(run.run_id, run.state, "run" if whole else "checkpoints", sum(map(_size, folders)))
    for folder in [] if dry_run else folders:
        # Away at once: a prune that is cut leaves no run or checkpoint that looks whole, and the next one takes the rest.
        away = run.folder.parent / f"{_GOING}{run.run_id}-{folder.name}-{os.getpid()}"
        os.rename(folder, away)
        shutil.rmtree(away, ignore_errors=True)
    return told


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size if path.is_file() else 0
    return total
