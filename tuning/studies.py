"""A study's folder: which files are in it, and how it stands. No Ray, no Optuna, no torch.

``study.json`` is the driver's (what was planned, how it stands), ``study.jsonl`` the record, ``optuna.db`` what the sampler knows, unless
the study names another storage; ``attempt-N/trial-NNN/`` has what Tune keeps of a trial, its last checkpoint among it. ``result.json``
and the recipes that are left of the winner (``best_recipe.yaml`` and others) come when the study has finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from foundation import driving
from foundation.driving import Driven
from foundation.errors import DataError
from foundation.home import home
from foundation.records import read_rows
from tuning.record import Trial, all_of
from tuning.repeats import Repeated, compare

STUDY_FILE = "study.json"
RECORD_FILE = "study.jsonl"
CONFIG_FILE = "study.yaml"
RESULT_FILE = "result.json"
REPORT_FILE = "report.html"
BEST_FILE = "best_recipe.yaml"
CONTINUED_FILE = "continued_recipe.yaml"
REFIT_FILE = "refit_recipe.yaml"
STORAGE_FILE = "optuna.db"
# Key that ``study.json`` has since studies have records.
_RECORDED = "attempts"


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
        """The trial with the best mean of its repeats; without any, with the best score so far, the earliest of equals. One that failed,
        or does not keep to the constraints, does not win."""
        if self.repeated:
            return self.trials[self.repeated[0].trial]
        sign = 1 if self.plan["mode"] == "max" else -1
        scored = [trial for trial in self.trials.values() if trial.score is not None and trial.state != "failed" and not trial.over]
        return max(scored, key=lambda trial: sign * (trial.score or 0.0), default=None)

    @property
    def places(self) -> list[str]:
        """Folders that its recipes begin from."""
        named = [*self.plan["locations"].values(), self.plan["config"]["recipe"].get("start_from")]
        return [place for place in named if place]

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


def study_of(recipe: Path | None) -> str | None:
    """The study that wrote a recipe file; None for any other file."""
    if recipe is None or recipe.name not in (BEST_FILE, CONTINUED_FILE, REFIT_FILE) or not (recipe.parent / STUDY_FILE).is_file():
        return None
    return recipe.resolve().parent.name


def all_studies() -> list[Study]:
    """The studies of a home, the latest first."""
    folders = driving.folders(home().runs, STUDY_FILE)
    said = {folder: driving.read(folder, STUDY_FILE, RESULT_FILE, "study") for folder in folders}
    found = [Study(folder, about, result) for folder, (about, result) in said.items() if _RECORDED in about]
    return sorted(found, key=lambda study: -study.about["started"])


def trial_folder(number: int, seed: int | None = None, since: int = 0, again: int = 0) -> str:
    """A trial's folder within an attempt's, or a repeat's; of a member of a population one for each stretch, by the step it began after; of
    a trial that was handed out again one more."""
    name = f"trial-{number:03d}" + ("" if seed is None else f"-seed-{seed}")
    return name + (f"-since-{since:07d}" if since else "") + (f"-again-{again:03d}" if again else "")


def attempt_folder(attempt: int, *, repeats: bool = False) -> str:
    """An attempt's folder within the study's: of the search, or of the repeats after it."""
    return f"repeats-{attempt}" if repeats else f"attempt-{attempt}"


def checkpoints(folder: Path, number: int, seed: int | None = None) -> list[Path]:
    """Folders of a trial's checkpoints, whole or not, the latest first."""
    name = trial_folder(number, seed)
    found = [path for end in ("", "-since-*", "-again-*") for path in folder.glob(f"*-*/{name}{end}/checkpoint_*")]
    return sorted(found, key=lambda path: (int(path.parts[-3].rpartition("-")[2]), path.parts[-2], path.name), reverse=True)


def all_checkpoints(folder: Path) -> list[Path]:
    """Folders of the checkpoints of all trials and repeats."""
    return sorted(folder.glob("*-*/trial-*/checkpoint_*"))
