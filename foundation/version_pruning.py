"""Which versions of a model can go: old ones that nothing refers to. Pure; ``Registry.remove`` removes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foundation.versions import Version


@dataclass(frozen=True)
class Stays:
    """A version that stays, and why."""

    version: Version
    reason: str


@dataclass(frozen=True)
class Choice:
    """Of one model or several."""

    go: tuple[Version, ...]
    stay: tuple[Stays, ...]


def choose(versions: Sequence[Version], *, keep: int, referred: Mapping[str, str]) -> Choice:
    """What goes of one model.

    Args:
        versions: All of it, the newest first.
        keep: So many of the newest stay.
        referred: ``NAME/version`` to what refers to it, for messages.
    """
    go, stay = [], []
    for place, version in enumerate(versions):
        if version.aliases:
            stay.append(Stays(version, f"is {' and '.join(version.aliases)}"))
        elif version.ref in referred:
            stay.append(Stays(version, referred[version.ref]))
        elif place < keep:
            stay.append(Stays(version, f"is one of the {keep} newest"))
        else:
            go.append(version)
    return Choice(tuple(go), tuple(stay))
