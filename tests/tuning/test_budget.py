"""What a study has spent, and when its budget is."""

from __future__ import annotations

from typing import Any

import pytest

from foundation.config import parse
from foundation.errors import ConfigError
from tuning.budget import is_spent, limits_told, share, spent
from tuning.config import StudyConfig
from tuning.record import Report, Span, Trial

RECIPE = {"data": {"train": "reviews.csv"}, "encoder": "encoder"}
SPACE = {"schedule.peak_lr": {"kind": "log_uniform", "low": 1e-5, "high": 1e-3}}


def study(budget: dict[str, Any] | None = None, **workers: Any) -> StudyConfig:
    tree = {"recipe": RECIPE | {"workers": workers}, "space": SPACE, "budget": budget}
    return parse(StudyConfig, tree, where="study.yaml")


def trial(number: int, step: int, *spans: tuple[float, float]) -> Trial:
    report = Report(step, 0.5, {"steps": 100}, goes_on=True, time=0.0)
    return Trial(number, {}, reports=(report,), spans=tuple(Span(began, ended, f"host:{at}") for at, (began, ended) in enumerate(spans)))


# Two side by side, then one that began again in another worker, an hour later.
TRIALS = (trial(0, 40, (0, 3600)), trial(1, 60, (1800, 5400)), trial(2, 10, (9000, 9900), (9900, 10800)))


def test_steps_add_up_and_hours_are_those_in_which_any_trial_trained() -> None:
    used = spent(TRIALS, study())
    assert (used.steps, used.hours, used.cost) == (110, 2.0, None)


@pytest.mark.parametrize(("workers", "hours"), [({}, 2.5), ({"gpus_each": 2}, 5.0)])
def test_the_cost_is_that_of_all_trials_time_by_gpus_where_there_are_some(workers: dict[str, Any], hours: float) -> None:
    assert spent(TRIALS, study({"cost": 100, "price": 4.0}, **workers)).cost == pytest.approx(4.0 * hours)


@pytest.mark.parametrize(
    ("budget", "used", "is_over"),
    [
        (None, 0.0, False),
        ({"steps": 220}, 0.5, False),
        ({"steps": 110}, 1.0, True),
        ({"steps": 1100, "hours": 2.5}, 0.8, False),
        ({"hours": 8, "cost": 2.5, "price": 2}, 2.0, True),
    ],
)
def test_the_nearest_limit_tells_how_much_is_spent(budget: dict[str, Any] | None, used: float, is_over: bool) -> None:
    config = study(budget)
    assert share(spent(TRIALS, config), config.budget) == pytest.approx(used)
    assert is_spent(TRIALS, config) == is_over


def test_every_limit_is_told() -> None:
    config = study({"steps": 1100, "hours": 2.5, "cost": 20, "price": 4})
    assert config.budget
    assert limits_told(spent(TRIALS, config), config.budget) == "steps 110 of 1,100, hours 2.0 of 2.5, cost 10.0 of 20.0"


def test_a_trial_that_is_cut_has_ended_unless_it_had_all_its_steps() -> None:
    assert Trial(0, {}, reports=trial(0, 40).reports, is_cut=True).state == "stopped"
    assert Trial(0, {}, reports=trial(0, 100).reports, is_cut=True).state == "finished"


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "budget: limits nothing; give steps, hours or cost"),
        ({"cost": 10}, "budget.cost: needs budget.price"),
        ({"hours": 0}, "budget.hours"),
    ],
)
def test_a_budget_that_says_nothing_is_refused(budget: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(budget)
