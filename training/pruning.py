"""What of the runs of a home can go: checkpoints of runs that have finished, or whole runs that have ended. No torch, no Ray.

A finished run's checkpoints are most of its bytes, and nothing but ``start_from`` needs them any more. Models in the registry have copies
of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from foundation.home import Home, home
from foundation.pruning import Asked, Kept, Pruning, begins_in, clear_away, remove, why_it_stays
from training.runs import Run, all_runs, checkpoints


def prune(
    asked: Asked, chosen: Sequence[Run] | None = None, *, studies: Mapping[str, Iterable[str]] | None = None, where: Home | None = None
) -> Pruning:
    """Remove checkpoints of finished runs, or whole runs; one from whose bundle or checkpoint a run or study began that stays is kept.

    Args:
        asked: Which, and how much.
        chosen: Runs to look at; None is all of the home.
        studies: Studies that stay, and the folders that each one's recipes name.
        where: The home.

    Raises:
        ConfigError: A state that no run can be in.
    """
    asked.check()
    every = all_runs(where)
    looked_at = {run.folder for run in (every if chosen is None else chosen)}
    gone: list[Run] = []
    kept: list[Kept] = []
    for run in (run for run in every if run.folder in looked_at):
        if reason := why_it_stays(run, asked, _parts):
            kept.append(Kept(run.run_id, reason))
        else:
            gone.append(run)
    if asked.whole:
        gone = _not_named(gone, studies or {}, kept)
    gone = _not_referred_to(gone, every, kept, whole=asked.whole)
    told = tuple(remove(run, asked, _parts, whole="run") for run in gone)
    if not asked.dry_run:
        clear_away((where or home()).runs)
    return Pruning(told, tuple(kept))


def _parts(run: Run) -> list[Path]:
    return checkpoints(run.folder)


def _not_named(gone: Iterable[Run], studies: Mapping[str, Iterable[str]], kept: list[Kept]) -> list[Run]:
    """Those of ``gone`` that no study's recipes name; the others are added to ``kept``."""
    free = []
    for run in gone:
        user = next((study for study, places in studies.items() if begins_in(places, run.folder)), None)
        if user is None:
            free.append(run)
        else:
            kept.append(Kept(run.run_id, f"recipes of {user} begin from it"))
    return free


def _not_referred_to(gone: Iterable[Run], every: Iterable[Run], kept: list[Kept], *, whole: bool) -> list[Run]:
    """Those of ``gone`` from which no run began that stays, or of checkpoints, that may yet need them; the others are added to ``kept``."""
    going = {run.folder: run for run in gone}
    keys = ("encoder", "start_from") if whole else ("start_from",)
    # Of checkpoints, only a run that could be gone on with needs any; what goes whole needs nothing.
    every = [run for run in every if whole or run.state != "finished"]
    while True:
        users = [run for run in every if not whole or run.folder not in going]
        pairs = ((run, user) for run in going.values() for user in users)
        held = next(((run, user) for run, user in pairs if begins_in(map(user.plan["recipe"].get, keys), run.folder)), None)
        if held is None:
            return [*going.values()]
        run, user = held
        del going[run.folder]
        kept.append(Kept(run.run_id, f"{user.run_id} began from it"))
