"""What of a home's runs and studies can go: parts that nothing needs any more, or whole folders once they have ended.

One that was stopped, failed or lost its driver can be gone on with, so its parts go only with the whole of it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.driving import RESUMABLE, Driven
from foundation.errors import ConfigError

_STATES = ("finished", *RESUMABLE)
_GOING = ".going-"
DAY_S = 86_400.0
Parts = Callable[[Any], Sequence[Path]]
"""The folders in a finished run or study that nothing needs any more."""


@dataclass(frozen=True)
class Asked:
    """Which may go, and how much of them."""

    older_than_s: float = 0.0
    """Only those that ended so long ago."""
    states: Collection[str] = ()
    """Only those in one of these; empty is any."""
    whole: bool = False
    """All that is left of them, in whatever state they ended."""
    dry_run: bool = False
    """Remove nothing."""

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: A state that nothing can be in.
        """
        if unknown := sorted(set(self.states) - set(_STATES)):
            raise ConfigError(f"--state: found {unknown[0]!r}; expected one of {', '.join(_STATES)}")


@dataclass(frozen=True)
class Gone:
    """What goes of a run or study."""

    id: str
    state: str
    what: str
    """``checkpoints``, ``run`` or ``study``."""
    bytes: int


@dataclass(frozen=True)
class Kept:
    """One of which nothing goes."""

    id: str
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


def why_it_stays(item: Driven, asked: Asked, parts: Parts) -> str | None:
    """By its own state and age; None when it may go."""
    state = item.state
    if state == "running":
        return "is running"
    if asked.states and state not in asked.states:
        return f"is {state}"
    if time.time() - _ended(item) < asked.older_than_s:
        return f"ended less than {asked.older_than_s / DAY_S:g} days ago"
    if asked.whole:
        return None
    if state != "finished":
        return f"is {state}, but could be gone on with"
    return None if parts(item) else "has no checkpoints"


def begins_in(places: Iterable[object], folder: Path) -> bool:
    """Whether one of what a recipe begins from lies in the folder."""
    return any(isinstance(place, str) and Path(place).is_relative_to(folder) for place in places)


def remove(item: Driven, asked: Asked, parts: Parts, *, whole: str) -> Gone:
    """Remove one, or its parts; ``whole`` says what it is. A removal that is cut leaves nothing that looks whole."""
    folders = [item.folder] if asked.whole else [*parts(item)]
    told = Gone(item.folder.name, item.state, whole if asked.whole else "checkpoints", sum(map(_size, folders)))
    for number, folder in enumerate([] if asked.dry_run else folders):
        # Away at once; what a prune that is cut leaves there, the next one takes.
        away = item.folder.parent / f"{_GOING}{item.folder.name}-{number}-{os.getpid()}"
        os.rename(folder, away)
        shutil.rmtree(away, ignore_errors=True)
    return told


def clear_away(folder: Path) -> None:
    """Remove what prunes that were cut left in the folder of all runs."""
    for left in folder.glob(f"{_GOING}*"):
        shutil.rmtree(left, ignore_errors=True)


def _ended(item: Driven) -> float:
    """Unix seconds; of one that ended without a word, when it last wrote."""
    return float(item.about["ended"] or max(path.stat().st_mtime for path in (item.folder, *item.folder.glob("*.json*"))))


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size if path.is_file() else 0
    return total
