"""Going on with a run that its driver left: stopped, failed, or lost without a word. Checks what differs, and starts nothing.

The run keeps its id, folder, record and MLflow run. Its workers begin from its last whole checkpoint, as they do after every restart.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from foundation.config import flat
from foundation.errors import ConfigError
from foundation.home import write_json
from training import runs
from training.checkpoint import Checkpoint, first_whole
from training.config import RunConfig
from training.planning import Resumption, TrainPlan, plan
from training.runs import Run
from training.verb_config import Verb

_SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's
_FREE = frozenset(
    {
        "workers",
        "sharding",
        "tokens_per_microbatch",
        "rows_per_microbatch",
        "prefetch_steps",
        "attention",
        "compile",
        "activation_checkpointing",
        "checkpoint.keep",
        "checkpoint.every_s",
        "stop_after_steps",
        "register_as",
        "gates",
        "profile_steps",
        "record_rows",
    }
)
"""Keys, and groups of them, on which a run's result depends by rounding at most, or not at all."""
# Compared by what it leads to.
_ENCODER = "encoder"


def resumed(verb: Verb, run: Run, recipe: RunConfig, *, accepts_changes: bool = False) -> TrainPlan:
    """The plan of what is left of a run.

    Args:
        verb: That the user gave.
        run: The run.
        recipe: What to go on with.
        accepts_changes: Also with a recipe or data that change the result.

    Raises:
        InputError: The run is of another verb, still driven or finished; recipe or data differ; no checkpoint of it is whole.
    """
    if run.plan["verb"] != verb:
        raise ConfigError(
            f"--resume: {run.run_id}: is a run of {run.plan['verb']}; go on with `raybert {run.plan['verb']} --resume {run.run_id}`"
        )
    if run.state == "running":
        raise ConfigError(
            f"--resume: {run.run_id}: is still running (process {run.about['pid']} on {run.about['host']}); wait for it, or stop it first"
        )
    if run.state == "finished":
        raise ConfigError(
            f"--resume: {run.run_id}: has finished; to train its model further, begin a run with encoder={run.folder / 'bundle'}"
        )
    planned = plan(verb, recipe, run_id=run.run_id)
    # The run's own folder may lie in another home.
    planned = replace(planned, run_folder=str(run.folder))
    changes = differing(run.plan["recipe"], planned.recipe)
    telling = {key: change for key, change in changes.items() if not is_free(key)}
    if not _is_same_place(run.plan["location"], planned.location):
        telling[_ENCODER] = (run.plan["location"], planned.location)
    if (was := run.plan.get("data_fingerprint")) not in (None, planned.data_fingerprint):
        telling["the data's fingerprint"] = (was[:12], planned.data_fingerprint[:12])
    if telling and not accepts_changes:
        told = "; ".join(f"{key}: was {was!r}, now {now!r}" for key, (was, now) in telling.items())
        raise ConfigError(
            f"--resume: {run.run_id}: its result would be another one, because of {told}; leave these as they were, begin a new run, or go "
            "on all the same with --accept-changes"
        )
    checkpoint, damaged = _last_whole(run)
    step = checkpoint.progress.step if checkpoint else 0
    return replace(planned, resumes=Resumption(step, str(checkpoint.folder) if checkpoint else None, damaged, changes | telling))


def differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys of two recipes that do not say the same, the encoder's name aside; a key that one lacks is None there."""
    before, after = flat(was), flat(now)
    keys = [*after, *(key for key in before if key not in after)]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key) and key != _ENCODER}


def is_free(key: str) -> bool:
    """Whether a dotted key may differ."""
    parts = key.split(".")
    return any(".".join(parts[:length]) in _FREE for length in range(1, len(parts) + 1))


def _is_same_place(was: str, now: str) -> bool:
    return was == now or bool(was and now and os.path.realpath(was) == os.path.realpath(now))


def forget_damaged(folder: Path, kept: Path) -> None:
    """Take the checkpoints after ``kept``, which are damaged, and those that are gone out of Ray Train's list.

    It refuses to start while one of its list is gone, and counts a damaged one among the best that it keeps, so it could remove a whole one
    in its favour. The damaged folders stay.
    """
    file = folder / _SNAPSHOT
    if kept.name not in (names := _remembered(folder)):
        for name in names:  # an empty folder is passed over as a damaged one is
            (folder / name).mkdir(exist_ok=True)
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    names = [item["checkpoint_dir_name"] for item in found["checkpoint_results"]]
    stay = [(folder / name).is_dir() and runs.step_of(folder / name) <= runs.step_of(kept) for name in names]
    if all(stay):
        return
    for key in ("checkpoint_results", "checkpoint_report_indices"):
        found[key] = [item for item, stays in zip(found[key], stay, strict=True) if stays]
    found["latest_checkpoint_result"] = next(item for item in found["checkpoint_results"] if item["checkpoint_dir_name"] == kept.name)
    write_json(file, found)


def _last_whole(run: Run) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """What the workers will begin from; None when the run has written none yet."""
    names = _remembered(run.folder)
    if not names:
        return None, ()
    found, damaged = first_whole(runs.checkpoints_up_to(run.folder / names[0]))
    if found is None:
        raise ConfigError(f"--resume: {run.run_id}: no checkpoint of it is whole, so there is nothing to go on from: {'; '.join(damaged)}")
    return found, damaged


def _remembered(folder: Path) -> list[str]:
    """Names of the checkpoints that Ray Train knows of, the latest first."""
    file = folder / _SNAPSHOT
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        latest = found["latest_checkpoint_result"]
        names = [item["checkpoint_dir_name"] for item in [*([latest] if latest else []), *found["checkpoint_results"]]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        newest = next((str(path) for path in runs.checkpoints(folder)), "one of its checkpoints")
        raise ConfigError(
            f"{file}: Ray Train's list of the checkpoints cannot be read ({type(error).__name__}: {error}); begin a new run with "
            f"start_from={newest}"
        ) from None
    return [*dict.fromkeys(names)]
