"""Points are drawn from the space, by every sampler, the same ones again from the same seed."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna import distributions

from foundation.config import parse
from tuning.config import StudyConfig
from tuning.space import draw, first_points, new_sampler

NUMBERS = {
    "schedule.peak_lr": {"kind": "log_uniform", "low": 1e-5, "high": 1e-3},
    "dropout": {"kind": "uniform", "low": 0.0, "high": 0.3, "step": 0.1},
    "rows_per_step": {"kind": "integer", "low": 8, "high": 64, "log": True},
}
CHOICES = {
    "schedule.decay": {"kind": "choice", "values": ["linear", "cosine"]},
    "dropout": {"kind": "uniform", "low": 0.0, "high": 0.3, "step": 0.1},
}
CONDITIONAL = {
    "dropout": CHOICES["dropout"] | {"when": {"schedule.decay": ["linear"]}},
    "schedule.decay": CHOICES["schedule.decay"],
}


def study(space: dict[str, Any], kind: str, trials: int) -> StudyConfig:
    tree = {"recipe": {"data": {"train": "x.csv"}}, "space": space, "sampler": {"kind": kind, "first_random": 4}, "trials": trials}
    return parse(StudyConfig, tree, where="study.yaml")


def points(config: StudyConfig) -> list[dict[str, Any]]:
    """Asked for one after the other; the score prefers low dropout."""
    search = optuna.create_study(direction="maximize", sampler=new_sampler(config.sampler, config.seed))
    for point in first_points(config):
        search.enqueue_trial(point)
    found = []
    for _ in range(config.trials):
        trial = search.ask()
        found.append(draw(trial, config.space))
        search.tell(trial, -found[-1].get("dropout", 0.0))
    return found


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize(
    ("kind", "space"),
    [("tpe", CONDITIONAL), ("random", CONDITIONAL), ("grid", CHOICES), ("gp", {**NUMBERS, **CHOICES}), ("cma_es", NUMBERS)],
)
def test_each_sampler_draws_what_the_space_holds_and_repeats_from_its_seed(kind: str, space: dict[str, Any]) -> None:
    config = study(space, kind, trials=8)
    drawn = points(config)
    for point in drawn:
        assert all(config.space[key].holds(value) for key, value in point.items())
    assert points(config) == drawn
    assert len({tuple(sorted(point.items())) for point in drawn}) > 2


def test_a_key_is_drawn_only_where_its_condition_holds() -> None:
    drawn = points(study(CONDITIONAL, "random", trials=16))
    assert {point["schedule.decay"] for point in drawn} == {"linear", "cosine"}
    for point in drawn:
        assert ("dropout" in point) == (point["schedule.decay"] == "linear")


def test_a_grid_tries_each_point_once() -> None:
    drawn = points(study(CHOICES, "grid", trials=8))
    assert len({(point["schedule.decay"], round(point["dropout"], 6)) for point in drawn}) == 8


def test_dimensions_become_optunas_distributions() -> None:
    trial = optuna.create_study().ask()
    draw(trial, study({**NUMBERS, **CHOICES}, "tpe", 1).space)
    assert trial.distributions == {
        "schedule.peak_lr": distributions.FloatDistribution(1e-5, 1e-3, log=True),
        "dropout": distributions.FloatDistribution(0.0, 0.3, step=0.1),
        "rows_per_step": distributions.IntDistribution(8, 64, log=True),
        "schedule.decay": distributions.CategoricalDistribution(["linear", "cosine"]),
    }
