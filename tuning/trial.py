"""One trial in Ray Tune's actor: trained here, or by a gang of workers; reports and checkpoints go to Tune."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from foundation.config import parse, with_values
from training.config import RunConfig
from training.verb_config import KINDS, verb_of

R = TypeVar("R", bound=RunConfig)
NAMES = "reported"
"""Key of a report: the names in it that are ours, among all that Tune adds."""
FAILED = "failed"
"""Key of a report that the trial failed, instead of a score; its message."""
_PASSING_FOLDER = "passing"


def trial_recipe(base: R, sampled: Mapping[str, Any]) -> R:
    """The recipe of one trial."""
    return with_values(base, sampled, where="sampled values")


@contextlib.contextmanager
def _failure_reported(told: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Report what fails within the block as the trial's own failure, unless it is the cluster's."""
    from ray import tune

    try:
        yield
    except OSError:
        raise
    except Exception as error:
        figures = {"traceback": traceback.format_exc(), **told()}
        tune.report({FAILED: f"{type(error).__name__}: {error}", **figures, NAMES: [*figures]})


def run_trial(
    start: dict[str, Any],
    *,
    base: dict[str, Any],
    locations: Mapping[str, str],
    folder: str,
    max_steps: int,
    report_every_steps: int,
    times_answers: bool,
) -> None:
    """Train until the scheduler stops the trial or its budget ends; what fails in the trial itself is reported, not raised.

    Args:
        start: A ``Start``'s values, as JSON has them.
        base: The study's recipe, as plain values.
        locations: Encoder REF to folder, resolved by the driver.
        folder: The study's.
        max_steps: Of trials that are not told theirs.
        report_every_steps: Cadence of reports.
        times_answers: Whether to measure how long an answer takes.

    Raises:
        OSError: A disk, a network or a worker of a gang failed: the cluster's fault, so that Tune begins the trial again from its last
            checkpoint.
    """
    began = time.perf_counter()
    from ray import tune

    from tuning.gang import train_gang
    from tuning.studies import trial_folder
    from tuning.trial_worker import Job, train_trial

    def told() -> dict[str, Any]:
        return {"trial_seconds": time.perf_counter() - began, "worker": f"{socket.gethostname()}:{os.getpid()}"}

    def tell(figures: dict[str, Any], checkpoint: Path) -> bool:
        named = figures | told()
        tune.report({**named, NAMES: [*named]}, checkpoint=tune.Checkpoint.from_directory(str(checkpoint)))
        return True  # a trial that is stopped does not come back

    name = trial_folder(start["number"], start["seed"], start["since"], start["again"])
    with _failure_reported(told), contextlib.ExitStack() as behind:
        recipe = trial_recipe(parse(KINDS[verb_of(base)], base, where="study"), start["sampled"])
        is_gang = recipe.engine != "torch"
        shared, own = Path(folder) / _PASSING_FOLDER / name, Path(tempfile.gettempdir()) / f"raybert-trial-{os.getpid()}"
        scratch = behind.enter_context(_fresh(shared if is_gang else own))
        # Tune's own is later than the one that the study's driver found when it went on.
        held = tune.get_checkpoint()
        job = Job(
            name=f"{Path(folder).name}-{name}",
            recipe=recipe.model_dump(mode="json"),
            location=locations[recipe.encoder],
            folder=folder,
            scratch=str(scratch),
            checkpoint=held.path if held else start["checkpoint"],
            reported_step=None if held else start["reported_step"],
            most_steps=start["steps"] or max_steps,
            until=start["until"],
            times_answers=times_answers,
            is_copy=start["is_copy"] and not held,
            report_every_steps=report_every_steps,
        )
        if is_gang:
            train_gang(job, recipe.workers, tell)
        else:
            train_trial(job, tell)


@contextlib.contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """A folder's path for the length of the block, with nothing there before or behind it."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
