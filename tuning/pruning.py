"""What of the studies of a home can go: checkpoints of trials that did not win, or whole studies that have ended. No torch, no Ray.

A trial's last checkpoint has its parameters and what the optimiser keeps of each, so a study of small encoders takes gigabytes. Of a
finished one only the winner's is needed, by ``continued_recipe.yaml``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foundation.home import home
from foundation.pruning import Asked, Kept, Pruning, begins_in, clear_away, remove, why_it_stays
from training.runs import CHECKPOINT_FILE, all_runs
from tuning.studies import Study, all_checkpoints, all_studies, checkpoints


def prune(asked: Asked, chosen: Sequence[Study] | None = None) -> Pruning:
    """Remove checkpoints of finished studies' trials, but for the winner's, or whole studies; one from whose checkpoint a run began that
    could be gone on with, or of whole ones any run, is kept.

    Args:
        asked: Which, and how much.
        chosen: Studies to look at; None is all of the home.

    Raises:
        ConfigError: A state that no study can be in.
    """
    asked.check()
    # Of a run that has finished, only whole studies are kept: its record tells where it began.
    users = [run for run in all_runs() if asked.whole or run.state != "finished"]
    gone, kept = [], []
    for study in all_studies() if chosen is None else chosen:
        heirs = [f"{run.run_id} began from it" for run in users if begins_in([run.plan["recipe"].get("start_from")], study.folder)]
        if reason := why_it_stays(study, asked, _losers) or next(iter(heirs), None):
            kept.append(Kept(study.study_id, reason))
        else:
            gone.append(study)
    told = tuple(remove(study, asked, _losers, whole="study") for study in gone)
    if not asked.dry_run:
        clear_away(home().runs)
    return Pruning(told, tuple(kept))


def _losers(study: Study) -> list[Path]:
    """Folders of all checkpoints but the winner's last one, and what may have been cut off behind it."""
    own = checkpoints(study.folder, study.best.number) if study.best else []
    written = next((place for place, path in enumerate(own) if (path / CHECKPOINT_FILE).is_file()), 0)
    return [path for path in all_checkpoints(study.folder) if path not in own[: written + 1]]
