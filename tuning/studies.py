"""A study's folder: which files are in it, how it stands, and whether it can be gone on with. No Ray, no Optuna.

``study.json`` is the driver's (what was planned, how it stands), ``study.jsonl`` the record, ``optuna.db`` what the sampler knows, unless
the study names another storage; ``attempt-N/trial-NNN/`` has what Tune keeps of a trial, its last checkpoint among it. ``result.json``,
``best_recipe.yaml`` and ``continued_recipe.yaml`` come when the study has finished.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from foundation import driving
from foundation.driving import Driven
from foundation.errors import ConfigError, DataError
from foundation.home import home
from foundation.records import read_rows
from training.checkpoint import Checkpoint, first_whole
from training.resuming import differing
from tuning.budget import is_spent, limits_told, spent
from tuning.config import StudyConfig
from tuning.record import Trial, all_of
from tuning.repeats import Repeated, compare, wanted

STUDY_FILE = "study.json"
RECORD_FILE = "study.jsonl"
CONFIG_FILE = "study.yaml"
RESULT_FILE = "result.json"
REPORT_FILE = "report.html"
BEST_FILE = "best_recipe.yaml"
CONTINUED_FILE = "continued_recipe.yaml"
STORAGE_FILE = "optuna.db"
# Key that ``study.json`` has since studies have records.
_RECORDED = "attempts"
_FREE = frozenset({"trials", "concurrent", "recipe.workers.max_failures"})
"""Keys that may differ when a study is gone on with."""
_FREE_BLOCKS = frozenset({"budget", "repeat"})


@dataclass(frozen=True)
class Study(Driven):
    """A study as its folder tells it; ``about`` is ``study.json``."""

    @property
    def study_id(self) -> str:
        """Also the folder's name."""
        return self.folder.name

    @cached_property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """Of the record, read when they are first asked for."""
        return tuple(read_rows(self.folder / RECORD_FILE))

    @cached_property
    def _known(self) -> tuple[dict[int, Trial], dict[tuple[int, int], Trial]]:
        return all_of(self.rows, self.plan["mode"])

    @property
    def trials(self) -> dict[int, Trial]:
        """By number."""
        return self._known[0]

    @property
    def repeats(self) -> dict[tuple[int, int], Trial]:
        """Of its best trials with other seeds, by number and seed."""
        return self._known[1]

    @cached_property
    def repeated(self) -> tuple[Repeated, ...]:
        """What repeats say, the best mean first."""
        return compare(self.repeats, self.plan["mode"])

    @property
    def best(self) -> Trial | None:
        """The trial with the best mean of its repeats; without any, with the best score so far, the earliest of equals. One that failed
        does not win."""
        if self.repeated:
            return self.trials[self.repeated[0].trial]
        sign = 1 if self.plan["mode"] == "max" else -1
        scored = [trial for trial in self.trials.values() if trial.score is not None and trial.state != "failed"]
        return max(scored, key=lambda trial: sign * (trial.score or 0.0), default=None)

    def brief(self) -> dict[str, Any]:
        """For a list."""
        ended = sum(trial.state != "unfinished" for trial in self.trials.values())
        return {
            "study_id": self.study_id,
            "started": self.about["started"],
            "state": self.state,
            "trials_ended": ended,
            "trials": self.plan["config"]["trials"],
            "metric": self.plan["metric"],
            "score": self.best.score if self.best else None,
        }

    @property
    def attempts(self) -> int:
        """Drivers that have begun it or gone on with it."""
        return int(self.about["attempts"])


def open_study(ref: str) -> Study:
    """A study by its id, an unambiguous part of it, or its folder.

    Raises:
        DataError: No such study, or several.
    """
    known = ", ".join(folder.name for folder in driving.folders(home().runs, STUDY_FILE)[-5:])
    folder = driving.named(ref, home().runs, STUDY_FILE, what="study", plural="studies", hint=f"there are: {known or 'none'}")
    about, result = driving.read(folder, STUDY_FILE, RESULT_FILE, "study")
    if _RECORDED not in about:
        raise DataError(
            f"{folder}: a study of an earlier version, which kept no record; begin it anew: raybert tune -c {folder / CONFIG_FILE}"
        )
    return Study(folder, about, result)


def all_studies() -> list[Study]:
    """The studies of a home, the latest first."""
    said = {folder: driving.read(folder, STUDY_FILE, RESULT_FILE, "study") for folder in driving.folders(home().runs, STUDY_FILE)}
    found = [Study(folder, about, result) for folder, (about, result) in said.items() if _RECORDED in about]
    return sorted(found, key=lambda study: -study.about["started"])


def check_resumable(study: Study, config: StudyConfig, plan: Mapping[str, Any]) -> None:
    """Refuse to go on with a study that is running or finished, or that would be another one.

    Args:
        study: The study.
        config: What to go on with.
        plan: What that would be, with ``locations`` and ``data_fingerprint``.

    Raises:
        ConfigError: What is in the way.
    """
    if study.state == "running":
        raise ConfigError(
            f"--resume: {study.study_id}: is still running (process {study.about['pid']} on {study.about['host']}); wait for it, or stop it"
        )
    changed = differing(study.plan["config"], plan["config"])
    telling = {key: change for key, change in changed.items() if key not in _FREE and key.partition(".")[0] not in _FREE_BLOCKS}
    for what, name in (("an encoder's folder", "locations"), ("the data's fingerprint", "data_fingerprint")):
        if study.plan[name] != plan[name]:
            telling[what] = (study.plan[name], plan[name])
    if telling:
        told = "; ".join(f"{key}: was {before!r}, now {after!r}" for key, (before, after) in telling.items())
        raise ConfigError(
            f"--resume: {study.study_id}: would be another study, because of {told}; leave these as they were, or begin a new study"
        )
    begun = len(study.trials)
    if config.trials < begun:
        raise ConfigError(f"--resume: {study.study_id}: trials is {config.trials}, and {begun} were begun; give at least as many")
    if study.state != "finished" or waiting_repeats(study, config):
        return
    if config.budget and is_spent(study.trials.values(), config):
        used = limits_told(spent(study.trials.values(), config), config.budget)
        raise ConfigError(f"--resume: {study.study_id}: its budget is spent ({used}); to go on, raise the limit of budget that is")
    if config.trials == begun:
        raise ConfigError(f"--resume: {study.study_id}: has finished its {begun} trials; to go on, ask for more: trials={2 * begun}")


def waiting_repeats(study: Study, config: StudyConfig) -> list[tuple[Trial, int]]:
    """Trials to train once more, and with which seed, that have not ended yet."""
    asked = wanted(study.trials.values(), config.repeat, study.plan["mode"], config.recipe.seed)
    known = study.repeats
    return [(trial, seed) for trial, seed in asked if (trial.number, seed) not in known or known[trial.number, seed].state == "unfinished"]


def trial_folder(number: int, seed: int | None = None) -> str:
    """A trial's folder within an attempt's, or a repeat's."""
    return f"trial-{number:03d}" if seed is None else f"trial-{number:03d}-seed-{seed}"


def attempt_folder(attempt: int, *, repeats: bool = False) -> str:
    """An attempt's folder within the study's: of the search, or of the repeats after it."""
    return f"repeats-{attempt}" if repeats else f"attempt-{attempt}"


def checkpoints(folder: Path, number: int, seed: int | None = None) -> list[Path]:
    """Folders of a trial's checkpoints, whole or not, the latest first."""
    found = folder.glob(f"*-*/{trial_folder(number, seed)}/checkpoint_*")
    return sorted(found, key=lambda path: (int(path.parts[-3].rpartition("-")[2]), path.name), reverse=True)


def last_checkpoint(folder: Path, number: int, seed: int | None = None) -> Checkpoint | None:
    """A trial's latest whole one."""
    return first_whole(checkpoints(folder, number, seed))[0]


def remove_surplus(folder: Path, number: int, kept: Checkpoint | None, seed: int | None = None) -> None:
    """Remove a trial's checkpoints but one: those of earlier attempts, and those that were being written when a worker or driver went."""
    for path in checkpoints(folder, number, seed):
        if kept is None or path != kept.folder:
            shutil.rmtree(path, ignore_errors=True)


def remove_repeats(folder: Path) -> None:
    """Remove what is left of repeats that have ended; their scores are in the record."""
    for path in folder.glob("repeats-*"):
        shutil.rmtree(path, ignore_errors=True)
