"""Where ``champion``, ``challenger`` and ``previous`` stand after a move: pure functions of where they stood.

Knows no MLflow; ``alias_store.py`` carries a move out, ``registry.py`` says who may make one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foundation.bundle import LOWER_IS_BETTER

CHAMPION = "champion"
"""What is served; the one authority."""
CHALLENGER = "challenger"
"""What stands beside the champion, until it becomes champion itself."""
PREVIOUS = "previous"
"""The champion before, to which a rollback goes."""
MOST_WHY = 2_000
"""Characters of a reason; a store of MLflow keeps 5,000 of a whole move."""

PATIENCE_S = 60.0
"""A move takes less, by far."""

Aliases = Mapping[str, int]
"""Alias to version number. Those that are not named here are the user's own, and stay where they are."""


class Move(BaseModel):
    """One change of a model's aliases, as it is kept: numbered without a gap, so that a lost one would show."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    number: int
    """1 for the first."""
    action: Literal["promote", "rollback", "challenge"]
    version: int
    """That was named."""
    before: int | None
    """The champion that the move found."""
    aliases: dict[str, int]
    """As the move left them."""
    at: str
    """UTC, ISO 8601."""
    by: str
    """``USER@HOST``."""
    why: str = Field(default="", max_length=MOST_WHY)
    forced: bool = False
    """Although it was refused."""
    objections: tuple[str, ...] = ()
    """Why it was refused."""
    data: str | None = None
    """Fingerprint of the labelled data on which both were measured."""
    split: str | None = None
    """Which of its rows."""
    compared: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Metric to the version's figure and the champion's, on those rows."""

    @property
    def champion(self) -> int | None:
        """After the move."""
        return self.aliases.get(CHAMPION)

    @property
    def worse(self) -> tuple[str, ...]:
        """Metrics in which the version is worse than the champion that it was compared with."""
        pairs = self.compared.items()
        return tuple(name for name, (own, other) in pairs if (own > other if name in LOWER_IS_BETTER else own < other))


def promoted(aliases: Aliases, version: int) -> dict[str, int]:
    """``version`` is champion, the champion before is ``previous``; a challenger that became champion challenges no more."""
    before = aliases.get(CHAMPION)
    moved = {alias: number for alias, number in aliases.items() if (alias, number) != (CHALLENGER, version)}
    if before not in (None, version):
        moved[PREVIOUS] = before
    return moved | {CHAMPION: version}


def challenged(aliases: Aliases, version: int) -> dict[str, int]:
    """``version`` stands beside the champion."""
    return {**aliases, CHALLENGER: version}


def is_under_way(claims: Iterable[str], now: datetime) -> bool:
    """Whether somebody has claimed the next move lately, by the times of claims. Who died with one is waited for no longer."""
    return any((now - datetime.fromisoformat(at)).total_seconds() < PATIENCE_S for at in claims)


def broken_links(moves: Iterable[Move]) -> list[str]:
    """What is wrong with a history: numbers that are missing or double, and moves that did not begin where the one before ended."""
    found, last = [], None
    for move in moves:
        expected = last.number + 1 if last else 1
        if move.number != expected:
            found.append(f"move {move.number} follows move {expected - 1}")
        elif last is not None and move.before != last.champion:
            found.append(f"move {move.number} found champion {move.before}, but move {last.number} left {last.champion}")
        last = move
    return found


def read_move(text: str) -> Move | None:
    """A kept move; None for one that this version cannot read."""
    try:
        return Move.model_validate_json(text)
    except ValidationError:
        return None
