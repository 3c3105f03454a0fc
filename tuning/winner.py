"""What is left of a study's winner: recipes that anyone can run, and that name nothing of the study but a checkpoint to go on from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from foundation.config import dump_yaml
from foundation.home import write_atomically
from foundation.progress import say
from training.config import FinetuneConfig, RunConfig
from training.planning import read_labelled, total_steps
from tuning import studies
from tuning.config import StudyConfig
from tuning.record import Trial
from tuning.resuming import last_checkpoint
from tuning.trial import trial_recipe


@dataclass(frozen=True)
class Left:
    """Files of the winner's recipes."""

    best: Path | None
    continued: Path | None
    refit: Path | None


def leave_recipes(folder: Path, config: StudyConfig, winner: Trial) -> Left:
    """Write the recipes of a study's best trial into the study's folder."""

    def leave(name: str, recipe: RunConfig | None) -> Path | None:
        if recipe is None:
            return None
        write_atomically(folder / name, dump_yaml(recipe))
        return folder / name

    checkpoint = last_checkpoint(folder, winner.number)
    if checkpoint is None:
        say(f"warning: trial {winner.number}: its checkpoint is not whole, so there is no {studies.CONTINUED_FILE}")
    return Left(
        # A member of a population changed its hyperparameters on the way: no one recipe makes its model.
        best=leave(studies.BEST_FILE, None if winner.is_member else best_recipe(config, winner)),
        continued=leave(studies.CONTINUED_FILE, continued_recipe(config, winner, checkpoint.folder) if checkpoint else None),
        refit=leave(studies.REFIT_FILE, None if winner.is_member else refit_recipe(config, winner)),
    )


def best_recipe(config: StudyConfig, trial: Trial) -> RunConfig:
    """A recipe that needs nothing of the study and trains a trial's model anew: the same steps, measured at the same ones, so that with as
    many threads the best of its checkpoints has the trial's score exactly."""
    exact = {
        "stop_after_steps": trial.step,
        "checkpoint.every_steps": config.report_every_steps,
        "checkpoint.every_s": None,
        "patience": None,  # the scheduler decided how far a trial went
    }
    return trial_recipe(config.recipe, {**trial.sampled, **exact})


def continued_recipe(config: StudyConfig, trial: Trial, checkpoint: Path) -> RunConfig:
    """A recipe that goes on from a trial's checkpoint to the end of the schedule."""
    return trial_recipe(config.recipe, {**trial.sampled, "start_from": str(checkpoint)})


def refit_recipe(config: StudyConfig, trial: Trial) -> RunConfig | None:
    """A recipe that trains a trial's model anew on its training and validation rows together.

    Nothing is left to choose the step by, so it ends as many passes over the rows in as the trial's best report was: the schedule grows
    with the rows, and ends where it ended.

    Args:
        config: The study.
        trial: With a score.

    Returns:
        None of a pretraining, where no rows were held back, and where they are needed besides: thresholds of several classes at once.
    """
    recipe = trial_recipe(config.recipe, trial.sampled)
    if not isinstance(recipe, FinetuneConfig) or trial.best is None:
        return None
    data = read_labelled(recipe)
    if data.kind == "list" or data.trains_on_validation:
        return None
    rows = len(data.train) + len(data.validation)
    steps = min(math.ceil(trial.best.step * rows / len(data.train)), total_steps(recipe, rows))
    joined = {
        "data.train_on": "train_and_validation",
        "stop_after_steps": steps,
        "checkpoint.every_steps": steps,
        "checkpoint.every_s": None,
        "patience": None,
    }
    return trial_recipe(recipe, joined)


def next_steps(verb: str, best: str | None, continued: str | None, refit: str | None) -> list[str]:
    """What may be done with the winner, a line for each recipe that there is."""
    told = [
        (best, "the winning model anew"),
        (continued, "from its checkpoint, to the end of the schedule"),
        (refit, "anew, on training and validation rows"),
    ]
    lines = [f"raybert {verb} -c {recipe}  # {what}" for recipe, what in told if recipe]
    return [f"{'or:  ' if number else 'next:'} {line}" for number, line in enumerate(lines)]
