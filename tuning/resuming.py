"""Going on with a study: whether it can be, what is left to train, and from which checkpoint each trial begins. No Ray, no Optuna."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.errors import ConfigError
from training.checkpoint import Checkpoint, first_whole
from training.resuming import differing
from tuning.budget import is_spent, limits_told, spent
from tuning.config import StudyConfig
from tuning.record import Trial
from tuning.repeats import wanted
from tuning.studies import Study, checkpoints

_FREE = frozenset({"trials", "concurrent", "recipe.workers.max_failures"})
"""Keys that may differ when a study is gone on with."""
_FREE_BLOCKS = frozenset({"budget", "repeat"})


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
