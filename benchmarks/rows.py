"""Goals, samples and rows: one form for every finding, and its verdict. Pure but for reading ``goals.toml``."""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, assert_never

GOALS = Path(__file__).resolve().parent / "goals.toml"
Kind = Literal["ratio", "difference", "within", "limit"]


@dataclass(frozen=True)
class Goal:
    """What ``goals.toml`` asks of one row."""

    goal: float
    unit: str
    better: Literal["higher", "lower"]
    why: str
    kind: Kind = "ratio"
    """What is asked of: the ``ratio``; the ``difference`` by which we are better, in ``unit``; that the figures are alike, no more than
    ``goal`` apart (``within``); or our figure itself, whatever the peer's is (``limit``)."""


@dataclass(frozen=True)
class Samples:
    """Raw figures of both sides, in the order in which they were taken."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """One finding. ``ours`` and ``peer`` are medians in ``unit``."""

    name: str
    ours: float
    peer: float
    ratio: float
    """How many times better we are; above 1 is better whichever way the unit runs."""
    difference: float
    """By how much we are better, in ``unit``; below 0 when we are worse."""
    goal: float
    kind: Kind
    """What the goal is asked of."""
    met: bool
    unit: str
    note: str
    samples: Samples
    commands: dict[str, str]
    """Command line of each side."""
    threads: dict[str, int]
    """Threads given to each side."""
    peer_versions: dict[str, str]
    appendix: str = ""
    """Markdown for the result's table: what was tried besides."""
    charts: dict[str, str] = field(default_factory=dict)
    """Name to SVG document; written beside the recorded table."""


def goal_of(benchmark: str, name: str, file: Path = GOALS) -> Goal:
    """Read one goal.

    Raises:
        KeyError: ``goals.toml`` has no such row: a benchmark without a goal proves nothing.
    """
    goals = tomllib.loads(file.read_text(encoding="utf-8"))
    if name not in goals.get(benchmark, {}):
        raise KeyError(f"{file}: no goal [{benchmark}.{name}]; every row needs one")
    return Goal(**goals[benchmark][name])


def row(
    name: str,
    samples: Samples,
    goal: Goal,
    *,
    note: str = "",
    commands: Mapping[str, str] | None = None,
    threads: Mapping[str, int] | None = None,
    peer_versions: Mapping[str, str] | None = None,
    appendix: str = "",
    charts: Mapping[str, str] | None = None,
) -> Row:
    """Judge samples by a goal. Pure.

    Raises:
        ValueError: No samples on a side, or figures that are not above zero, of which no ratio can be taken.
    """
    if not samples.ours or not samples.peer or min(*samples.ours, *samples.peer) <= 0:
        raise ValueError(f"{name}: needs figures above zero on both sides, found {samples}")
    ours, peer = statistics.median(samples.ours), statistics.median(samples.peer)
    is_higher = goal.better == "higher"
    ratio, difference = (ours / peer, ours - peer) if is_higher else (peer / ours, peer - ours)
    return Row(
        name=name,
        ours=ours,
        peer=peer,
        ratio=ratio,
        difference=difference,
        goal=goal.goal,
        kind=goal.kind,
        met=is_met(ours, ratio, difference, goal),
        unit=goal.unit,
        note=note,
        samples=samples,
        commands=dict(commands or {}),
        threads=dict(threads or {}),
        peer_versions=dict(peer_versions or {}),
        appendix=appendix,
        charts=dict(charts or {}),
    )


def is_met(ours: float, ratio: float, difference: float, goal: Goal) -> bool:
    """The verdict. Pure."""
    match goal.kind:
        case "ratio":
            return ratio >= goal.goal
        case "difference":
            return difference >= goal.goal
        case "within":
            return abs(difference) <= goal.goal
        case "limit":
            return ours >= goal.goal if goal.better == "higher" else ours <= goal.goal
        case _:
            assert_never(goal.kind)
