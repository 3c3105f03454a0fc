"""A model that does not keep to a study's constraints is stopped, cannot win, and the sampler learns of it."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from foundation.records import read_rows
from tests.support.tiny import make_encoder, write_reviews
from training.assembly import assemble
from training.config import FinetuneConfig
from tuning.config import ConstraintsConfig, StudyConfig
from tuning.constraints import broken, excesses, told
from tuning.record import Record, Report, Trial, trials_of
from tuning.repeats import wanted
from tuning.scheduler_config import NoScheduler
from tuning.scheduling import Rule, Scheduler
from tuning.searching import ask, open_storage, tell
from tuning.trial import NAMES
from tuning.trial_worker import latency_ms

CONSTRAINTS = ConstraintsConfig(latency_ms=20, size_mb=100)
FIGURES: dict[str, Any] = {"step": 8, "steps": 16, "trial_seconds": 1.0, "worker": "host:1"}


def test_what_is_beyond_its_most_is_told_with_both_figures() -> None:
    figures = {"latency_ms": 25.0, "size_mb": 100.0, "memory_mb": 9e9}
    assert excesses(figures, CONSTRAINTS) == pytest.approx({"latency_ms": 0.25, "size_mb": 0.0})
    assert broken(figures, CONSTRAINTS) == {"latency_ms": 25.0}
    assert told(broken(figures, CONSTRAINTS), CONSTRAINTS) == "latency_ms is 25, at most 20"
    assert broken({"size_mb": 101.0}, CONSTRAINTS) == {"size_mb": 101.0}
    assert broken(figures, None) == {}


def test_a_trial_beyond_them_is_stopped_and_neither_wins_nor_is_repeated(tmp_path: Path) -> None:
    record = Record(tmp_path / "study.jsonl")
    scheduler = Scheduler(Rule(NoScheduler(kind="none"), "max"), record, "accuracy", lambda: False, CONSTRAINTS)
    decisions = []
    for number, (score, latency) in enumerate(((0.9, 30.0), (0.8, 10.0))):
        record.begun(number, {})
        result = {"accuracy": score, "latency_ms": latency, **FIGURES}
        trial = SimpleNamespace(config={"number": number, "seed": None})
        decisions.append(scheduler.on_trial_result(None, trial, {**result, NAMES: [*result]}))
    assert decisions == ["STOP", "CONTINUE"]
    slow, quick = trials_of(read_rows(record.path), "max").values()
    assert (slow.state, dict(slow.over), quick.state, dict(quick.over)) == ("stopped", {"latency_ms": 30.0}, "unfinished", {})
    finished = Trial(1, {}, reports=(Report(16, 0.8, {"steps": 16}, True, 0.0),))
    repeat = StudyConfig.model_validate(tree() | {"repeat": {"top": 2, "seeds": 2}}).repeat
    assert [trial.number for trial, _ in wanted([slow, finished], repeat, "max", 0)] == [1, 1]


def test_the_sampler_is_told_how_far_beyond(tmp_path: Path) -> None:
    config = StudyConfig.model_validate(tree() | {"constraints": {"latency_ms": 20}})
    study = open_storage(f"sqlite:///{tmp_path / 'optuna.db'}", "s", config, "max")
    record = Record(tmp_path / "study.jsonl")
    for latency in (30.0, 10.0):
        number, point = ask(study, config)
        record.begun(number, point)
        record.reported(number, 0.5, {"latency_ms": latency, **FIGURES}, goes_on=True)
        tell(study, trials_of(read_rows(record.path), "max")[number], config)
    assert [trial.constraints for trial in study.get_trials()] == [{"latency_ms": pytest.approx(0.5)}, {"latency_ms": pytest.approx(-0.5)}]


def tree() -> dict[str, Any]:
    return {"recipe": {"data": {"train": "x.csv"}}, "space": {"dropout": {"kind": "uniform", "low": 0, "high": 0.3}}}


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({}, "constraints: limits nothing; give latency_ms, size_mb, memory_mb"),
        ({"latency_ms": 0}, "greater than 0"),
        ({"latency": 5}, "latency"),
    ],
)
def test_constraints_that_limit_nothing_are_refused(constraints: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudyConfig.model_validate(tree() | {"constraints": constraints})


def test_latency_is_of_a_classifier() -> None:
    pretraining = {"recipe": {"data": "builds/x"}, "space": {"mask_share": {"kind": "uniform", "low": 0.1, "high": 0.3}}}
    with pytest.raises(ValueError, match=r"constraints\.latency_ms: is of a classifier's answers"):
        StudyConfig.model_validate(pretraining | {"constraints": {"latency_ms": 5}})
    assert StudyConfig.model_validate(pretraining | {"constraints": {"size_mb": 5}}).constraints


def test_an_answer_is_timed_without_changing_the_model(tmp_path: Path) -> None:
    data = {"train": str(write_reviews(tmp_path / "r.csv", 30))}
    recipe = FinetuneConfig.model_validate({"encoder": str(make_encoder(tmp_path / "encoder")), "data": data, "max_length": 32})
    assembly = assemble(recipe, recipe.encoder)
    before = {name: tensor.clone() for name, tensor in assembly.model.state_dict().items()}
    found = latency_ms(assembly, torch.device("cpu"))
    assert math.isfinite(found)
    assert found > 0
    assert assembly.model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in assembly.model.state_dict().items())
