"""Population-based training as decisions: who goes on from whose checkpoint, and with which hyperparameters. Pure.

All members train to the same step, then it is decided for all at once, from their scores at that step, the study's seed and the step
alone: a study that is gone on with, or run again, decides alike, whoever reported first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tuning.config import ChoiceDimension, Dimension, IntegerDimension, Space, UniformDimension, applies, in_order
from tuning.record import Trial
from tuning.scheduler_config import PopulationConfig

Draw = Callable[[str, int], Any]
"""A value of a dimension, by its key and a seed."""
Explore = Callable[[Mapping[str, Any], np.random.Generator], dict[str, Any]]
"""A donor's hyperparameters to those of who goes on from it."""


@dataclass(frozen=True)
class Standing:
    """A member where members are compared."""

    number: int
    score: float | None
    """None of one that has none, which counts as the worst."""
    sampled: Mapping[str, Any]


@dataclass(frozen=True)
class Exploit:
    """A member goes on from another's checkpoint."""

    donor: int
    sampled: dict[str, Any]
    """With which hyperparameters."""


def decide(standings: Iterable[Standing], step: int, *, quantile: float, seed: int, mode: str, explore: Explore) -> dict[int, Exploit]:
    """Which members go on from others, by number; those that are left out go on as they are.

    Args:
        standings: Of all members that are alive.
        step: That all of them have reached.
        quantile: Share of them that is replaced.
        seed: The study's.
        mode: Whether a high score is good (``max``) or a low one (``min``).
        explore: Called for each of them, the best first.
    """
    sign = 1 if mode == "max" else -1
    # The earliest of equals is the better one.
    ranked = sorted(standings, key=lambda one: (-sign * one.score if one.score is not None else math.inf, one.number))
    if len(ranked) < 2:
        return {}
    count = min(max(1, int(len(ranked) * quantile)), len(ranked) // 2)
    best, worst = [one for one in ranked[:count] if one.score is not None], ranked[-count:]
    if not best:
        return {}
    found = {}
    for member in worst:
        random = np.random.default_rng([seed, step, member.number])
        donor = best[int(random.integers(len(best)))]
        found[member.number] = Exploit(donor.number, explore(donor.sampled, random))
    return found


def explored(sampled: Mapping[str, Any], random: np.random.Generator, config: PopulationConfig, space: Space, draw: Draw) -> dict[str, Any]:
    """Hyperparameters that differ a little from others; those that do not apply any more are left out, those that newly do are drawn.

    Args:
        sampled: The others.
        random: Says what becomes of each.
        config: The scheduler.
        space: The study's.
        draw: Draws a value anew.
    """
    found: dict[str, Any] = {}
    for key in in_order(space):
        # Drawn for every key, so that one key's numbers do not depend on another's fate.
        is_drawn, is_up, number = random.random() < config.resample, bool(random.integers(2)), int(random.integers(2**32))
        if not applies(space[key], found):
            continue
        if key not in sampled or is_drawn:
            found[key] = draw(key, number)
        else:
            found[key] = _beside(sampled[key], space[key], config.factor, is_up=is_up)
    return found


def _beside(value: Any, dimension: Dimension, factor: float, *, is_up: bool) -> Any:
    """The value next to one."""
    match dimension:
        case UniformDimension(step=None):
            return min(dimension.high, max(dimension.low, value * factor if is_up else value / factor))
        case IntegerDimension():
            far = round(value * factor if is_up else value / factor)
            wanted = max(far, value + 1) if is_up else min(far, value - 1)
            steps = (wanted - dimension.low) / dimension.step
            most = (dimension.high - dimension.low) // dimension.step
            return dimension.low + dimension.step * min(most, max(0, math.ceil(steps) if is_up else math.floor(steps)))
        case ChoiceDimension():
            return _neighbour(dimension.values, dimension.values.index(value), is_up=is_up)
        case UniformDimension():
            points = dimension.points or ()
            return _neighbour(points, min(range(len(points)), key=lambda place: abs(points[place] - value)), is_up=is_up)


def _neighbour(points: Sequence[Any], place: int, *, is_up: bool) -> Any:
    return points[min(len(points) - 1, max(0, place + (1 if is_up else -1)))]


@dataclass(frozen=True)
class Stretch:
    """A part of the way on which a model came to be."""

    member: int
    since: int
    """Step after which it began."""
    until: int
    sampled: Mapping[str, Any]


def lineage(trials: Mapping[int, Trial], number: int) -> tuple[Stretch, ...]:
    """The way of a member's model from the first step on: by whom it was trained, and with which hyperparameters."""
    until, found = trials[number].step, []
    while True:
        trial = trials[number]
        sampled = sampled_until(trial, until)
        copied = next((one for one in reversed(trial.exploits) if one.step < until), None)
        found.append(Stretch(number, copied.step if copied else 0, until, sampled))
        if copied is None:
            return tuple(reversed(found))
        number, until = copied.donor, copied.step


def sampled_until(trial: Trial, step: int) -> Mapping[str, Any]:
    """A member's hyperparameters on the stretch that ended at a step."""
    return next((one.before for one in trial.exploits if one.step >= step), trial.sampled)


@dataclass(frozen=True)
class Gain:
    """What a stretch brought."""

    since: int
    sampled: Mapping[str, Any]
    gained: float
    """By how much the score became better."""


def gains(trials: Iterable[Trial], ends: Sequence[int], mode: str) -> list[Gain]:
    """Of every stretch from the second one on: its score against that of the checkpoint it began from.

    Args:
        trials: The members.
        ends: Steps at which stretches ended, ascending.
        mode: ``max`` or ``min``.
    """
    known = {trial.number: trial for trial in trials}
    scores = {(number, report.step): report.score for number, trial in known.items() for report in trial.reports}
    sign, found = (1 if mode == "max" else -1), []
    for number, trial in known.items():
        for since, until in pairwise(ends):
            origin = next((one.donor for one in trial.exploits if one.step == since), number)
            before, after = scores.get((origin, since)), scores.get((number, until))
            if before is not None and after is not None and math.isfinite(before) and math.isfinite(after):
                found.append(Gain(since, sampled_until(trial, until), sign * (after - before)))
    return found
