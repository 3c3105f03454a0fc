"""A study that could fail at a trial is refused before the first one starts."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from foundation.config import parse
from foundation.errors import ConfigError
from training.config import PretrainConfig
from tuning.config import StudyConfig
from tuning.scheduler_config import AshaConfig, HyperBandConfig
from tuning.study import TrialRow

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
        ({"schedule.peak_lr": LR | {"step": 1e-5}}, "step: belongs to uniform"),
        ({"seed": {"kind": "integer", "low": 0, "high": 4, "log": True}}, "log: needs low of at least 1"),
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
        study(scheduler={"kind": "asha", "max_steps": 20})


def test_a_trials_row_is_plain_values() -> None:
    row = TrialRow(0, {"schedule.peak_lr": 1e-3}, 10, 0.5, 10, 1.0, "finished")
    assert json.loads(json.dumps(row.__dict__))["sampled"] == {"schedule.peak_lr": 1e-3}


DECAY = {"kind": "choice", "values": ["linear", "cosine"]}
DROPOUT = {"kind": "uniform", "low": 0.0, "high": 0.3, "step": 0.1}
LINEAR_DROPOUT = DROPOUT | {"when": {"schedule.decay": ["linear"]}}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"dropout": DROPOUT | {"when": {"epochs": [1]}}}, "dropout.when: epochs is no other choice of the space; choices: none"),
        ({"schedule.decay": DECAY | {"when": {"schedule.decay": ["linear"]}}}, "schedule.decay is no other choice"),
        (
            {"schedule.decay": DECAY, "dropout": DROPOUT | {"when": {"schedule.decay": ["square"]}}},
            "dropout.when.schedule.decay: 'square' is not one of its values",
        ),
        (
            {
                "schedule.decay": DECAY | {"when": {"metric": ["accuracy"]}},
                "metric": {"kind": "choice", "values": ["accuracy"], "when": {"schedule.decay": ["linear"]}},
            },
            "the conditions of schedule.decay, metric ask for each other",
        ),
    ],
)
def test_a_condition_that_could_not_be_told_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(space)


@pytest.mark.parametrize(
    ("kind", "space", "more", "message"),
    [
        ("grid", {"schedule.peak_lr": LR}, {}, r"grid needs values that can be counted, and schedule\.peak_lr has none"),
        ("grid", {"dropout": DROPOUT}, {"trials": 5}, "trials is 5, the grid has 4 points"),
        ("cma_es", {"schedule.decay": DECAY, "dropout": DROPOUT}, {}, r"cma_es searches numbers, and schedule\.decay is a choice"),
        *(
            (
                kind,
                {"schedule.decay": DECAY, "dropout": DROPOUT | {"when": {"schedule.decay": ["linear"]}}},
                {},
                f"{kind} cannot do conditions",
            )
            for kind in ("grid", "gp", "cma_es")
        ),
    ],
)
def test_a_sampler_that_cannot_search_the_space_is_refused(kind: str, space: dict[str, Any], more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(space, sampler={"kind": kind}, **more)


@pytest.mark.parametrize(
    ("space", "data"),
    [
        ({"schedule.peak_lr": LR}, {"train_on": "train_and_validation"}),
        ({"data.train_on": {"kind": "choice", "values": ["train", "train_and_validation"]}}, {}),
    ],
)
def test_a_study_that_would_choose_on_rows_that_are_trained_on_is_refused(space: dict[str, Any], data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"data\.train_on: a study chooses on validation rows, which must not be trained on"):
        study(space, recipe={"data": {"train": "x.csv", **data}})


def test_reports_that_would_come_after_the_first_rung_are_refused() -> None:
    with pytest.raises(ConfigError, match="report_every_steps is 25, but trials are compared at step 10"):
        study(scheduler={"kind": "median_stop", "grace_steps": 10})


def test_steps_make_the_values_of_a_dimension_few() -> None:
    dimension = study({"dropout": DROPOUT}).space["dropout"]
    assert dimension.points == pytest.approx((0.0, 0.1, 0.2, 0.3))
    assert dimension.holds(0.3)
    assert not dimension.holds(0.25)


@pytest.mark.parametrize(
    ("grace", "factor", "most", "rungs"),
    [(50, 2, 200, (50, 100, 200)), (40, 2, 80, (40, 80)), (10, 3, 100, (10, 30, 90)), (7, 1.5, 12, (7, 11))],
)
def test_rungs_are_those_of_tune(grace: int, factor: float, most: int, rungs: tuple[int, ...]) -> None:
    from ray.tune.schedulers import AsyncHyperBandScheduler

    asha = AshaConfig(max_steps=most, grace_steps=grace, reduction_factor=factor)
    assert asha.rungs == rungs
    tunes = AsyncHyperBandScheduler(time_attr="step", max_t=most, grace_period=grace, reduction_factor=factor, brackets=1)
    assert asha.rungs == tuple(math.ceil(rung) for rung, _ in reversed(tunes._brackets[0]._rungs))


def test_hyperband_has_a_bracket_for_each_rung_and_most_trials_where_they_stop_earliest() -> None:
    config = HyperBandConfig(kind="hyperband", max_steps=81, grace_steps=1, reduction_factor=3)
    assert config.rungs == (1, 3, 9, 27, 81)
    assert [bracket.rungs for bracket in config.brackets] == [config.rungs[place:] for place in range(5)]
    counts = [sum(config.bracket_of(number) == bracket for number in range(143)) for bracket in range(5)]
    assert counts == [math.ceil(5 * 3**s / (s + 1)) for s in (4, 3, 2, 1, 0)], "as many as the paper begins in each"


def test_a_recipe_of_a_pretraining_is_told_by_its_data_and_its_errors_name_its_own_keys() -> None:
    tree = {
        "recipe": {"data": "builds/x", "new_model": {"layers": 2}},
        "space": {"new_model.hidden": {"kind": "choice", "values": [64, 128]}},
    }
    study = parse(StudyConfig, tree, where="study.yaml")
    assert isinstance(study.recipe, PretrainConfig)
    assert parse(StudyConfig, study.model_dump(mode="json"), where="again") == study
    for recipe, message in (
        ({"data": "builds/x", "epochs": 2}, r"study\.yaml: recipe\.epochs: unknown key; .*known keys: .*mask_share"),
        ({"data": {"train": "x.csv"}, "mask_share": 0.2}, r"study\.yaml: recipe\.mask_share: unknown key; .*known keys: .*epochs"),
        ({"data": {"tran": "x.csv"}}, r"study\.yaml: recipe\.data\.train: missing"),
        ({}, r"study\.yaml: recipe\.data: missing"),
        ({"data": "builds/x", "steps": True}, r"study\.yaml: recipe\.steps: found true; expected a number"),
    ):
        with pytest.raises(ConfigError, match=message) as found:
            parse(StudyConfig, {**tree, "recipe": recipe, "space": {"schedule.peak_lr": LR}}, where="study.yaml")
        assert "<" not in str(found.value)
