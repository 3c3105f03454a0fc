"""What a study has spent, and whether its budget allows more. Pure: counted from the trials that its record tells of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tuning.config import BudgetConfig, StudyConfig
from tuning.record import Span, Trial

_HOUR = 3600.0


@dataclass(frozen=True)
class Spent:
    """What trials have used until their last reports."""

    steps: int
    """Optimiser steps; those that were lost with a worker and trained again count once."""
    hours: float
    """In which at least one trial trained."""
    cost: float | None
    """Of all trials' time; None without a price."""


def spent(trials: Iterable[Trial], config: StudyConfig) -> Spent:
    """Add up what trials have used."""
    known = [*trials]
    price = config.budget.price if config.budget else None
    each = price and price * (config.recipe.workers.gpus_each or 1) * config.recipe.workers.most
    return Spent(
        steps=sum(trial.step for trial in known),
        hours=_covered_s(span for trial in known for span in trial.spans) / _HOUR,
        cost=None if each is None else each * sum(trial.seconds for trial in known) / _HOUR,
    )


def share(used: Spent, budget: BudgetConfig | None) -> float:
    """How much of the budget is used, by the limit that is nearest: 1 and more is all of it, 0 without a budget."""
    return max((found / limit for found, limit in _limits(used, budget).values()), default=0.0)


def is_spent(trials: Iterable[Trial], config: StudyConfig) -> bool:
    """Whether no trial may begin, and none go on."""
    return config.budget is not None and share(spent(trials, config), config.budget) >= 1


def limits_told(used: Spent, budget: BudgetConfig) -> str:
    """``steps 1,010 of 1,000``, for each limit."""
    return ", ".join(f"{name} {round(found, 2):,} of {limit:,}" for name, (found, limit) in _limits(used, budget).items())


def _limits(used: Spent, budget: BudgetConfig | None) -> dict[str, tuple[float, float]]:
    if budget is None:
        return {}
    limits = {"steps": (used.steps, budget.steps), "hours": (used.hours, budget.hours), "cost": (used.cost or 0.0, budget.cost)}
    return {name: (found, limit) for name, (found, limit) in limits.items() if limit is not None}


def _covered_s(spans: Iterable[Span]) -> float:
    covered, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.began):
        covered += max(0.0, span.ended - max(span.began, until))
        until = max(until, span.ended)
    return covered
