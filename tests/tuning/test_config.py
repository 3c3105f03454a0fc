"""A study that could fail at a trial is refused before the first one starts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from optuna import distributions

from foundation.config import parse
from foundation.errors import ConfigError
from tuning.config import StudyConfig
from tuning.study import TrialRow, distribution

LR = {"kind": "log_uniform", "low": 1e-5, "high": 1e-3}


def study(space: dict[str, Any] | None = None, **more: Any) -> StudyConfig:
    tree = {"recipe": {"data": {"train": "x.csv"}}, "space": {"schedule.peak_lr": LR} if space is None else space}
    return parse(StudyConfig, tree | more, where="study.yaml")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"schedule.peak_rl": LR}, r"schedule\.peak_rl: unknown key; did you mean peak_lr\?"),
        ({"epoch": {"kind": "uniform", "low": 1, "high": 2}}, r"epoch: unknown key; did you mean epochs\?"),
        ({"dropout": {"kind": "uniform", "low": 0.2, "high": 0.1}}, r"low is 0\.2, high is 0\.1; low must be less"),
        ({"seed": {"kind": "integer", "low": 3, "high": 3}}, "low is 3, high is 3; low must be less"),
        ({"schedule.peak_lr": LR | {"low": 0}}, "a logarithm needs low above 0"),
        ({"encoder": {"kind": "choice", "values": []}}, "encoder.*at least 1 item"),
        ({"dropout": {"kind": "uniform", "low": 0, "high": 1.5}}, r"dropout: found 1\.5; .*less than 1"),
        ({"rows_per_step": {"kind": "choice", "values": [16, "many"]}}, "rows_per_step: found 'many'"),
        ({"seed": {"kind": "normal", "low": 3, "high": 4}}, "seed"),
        ({}, "space"),
    ],
)
def test_a_space_that_the_recipe_cannot_take_is_refused_by_key(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(space)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"dropout": 0.1}, r"start_with: dropout is no key of space; keys: schedule\.peak_lr"),
        ({"schedule.peak_lr": 0.5}, r"start_with\.0\.schedule\.peak_lr: 0\.5 is not in the space's dimension"),
    ],
)
def test_a_first_point_outside_the_space_is_refused(point: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(start_with=[point])


def test_a_first_point_inside_the_space_is_taken() -> None:
    space = {
        "schedule.peak_lr": LR,
        "rows_per_step": {"kind": "integer", "low": 8, "high": 32},
        "dropout": {"kind": "choice", "values": [0.0, 0.1]},
    }
    point = {"schedule.peak_lr": 1e-3, "rows_per_step": 8, "dropout": 0.1}
    assert study(space, start_with=[point]).start_with == (point,)


def test_a_first_rung_after_the_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="grace_steps is 50, more than max_steps, 20"):
        study(asha={"max_steps": 20})


def test_dimensions_become_optunas_distributions() -> None:
    space = study(
        {
            "schedule.peak_lr": LR,
            "dropout": {"kind": "uniform", "low": 0.0, "high": 0.5},
            "rows_per_step": {"kind": "integer", "low": 8, "high": 32},
            "schedule.decay": {"kind": "choice", "values": ["linear", "cosine"]},
        }
    ).space
    assert {key: distribution(dimension) for key, dimension in space.items()} == {
        "schedule.peak_lr": distributions.FloatDistribution(1e-5, 1e-3, log=True),
        "dropout": distributions.FloatDistribution(0.0, 0.5),
        "rows_per_step": distributions.IntDistribution(8, 32),
        "schedule.decay": distributions.CategoricalDistribution(["linear", "cosine"]),
    }


def test_a_trials_row_is_plain_values() -> None:
    row = TrialRow("t", {"schedule.peak_lr": 1e-3}, 10, 0.5, 1.0, "finished")
    assert json.loads(json.dumps(row.__dict__))["sampled"] == {"schedule.peak_lr": 1e-3}
