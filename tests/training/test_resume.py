"""A run that goes on from a checkpoint ends in the same bits as one that was never cut: parameters, optimiser state, progress.

With dropout, because its noise is a function of where in the run it is drawn and of nothing else. That a killed run of several processes
ends so too is in ``tests/ray/test_training.py`` and ``tests/prove/training.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gang import Task, run_gangs, run_task
from tests.support.history import differing_bits
from tests.support.steps import one_thread
from tests.support.tiny import make_encoder, make_packed, write_reviews
from training.checkpoint import Checkpoint

STEPS, HALF = 10, 4

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


class Place:
    """A tiny encoder, reviews with labels, and packed rows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.encoder = folder, make_encoder(folder / "encoder")
        data = {"pretrain": str(make_packed(folder / "packed", self.encoder))}
        self._data: dict[str, Any] = data | {"finetune": {"train": str(write_reviews(folder / "reviews.csv"))}}

    def task(self, verb: str, recipe: dict[str, Any], *, workers: int = 1, stage: int = 0) -> Task:
        tree = {
            "encoder": str(self.encoder),
            "data": self._data[verb],
            "rows_per_step": 7,
            "rows_per_microbatch": 2,
            "dropout": 0.1,
            "schedule": {"peak_lr": 3e-3},
            "workers": {"count": workers},
            "sharding": {"engine": "torch" if workers == 1 else "deepspeed", "zero_stage": stage},
        }
        tree |= {"max_length": 32} if verb == "finetune" else {"steps": STEPS}
        return {"verb": verb, "encoder": str(self.encoder), "steps": STEPS, "recipe": tree | recipe, "evaluates": False}

    def halves(self, task: Task, name: str) -> dict[str, Task]:
        """The whole run, its first steps, and the others from there, each with its last checkpoint."""
        where = {part: str(self.folder / f"{name}-{part}") for part in ("whole", "half", "resumed")}
        half = {"steps": HALF, "total_steps": STEPS}
        return {
            f"{name}-whole": task | {"save_to": where["whole"]},
            f"{name}-half": task | half | {"save_to": where["half"]},
            f"{name}-resumed": task | {"start_from": where["half"], "save_to": where["resumed"]},
        }

    def differing(self, name: str) -> list[str]:
        found, wanted = (Checkpoint.open(self.folder / f"{name}-{part}") for part in ("resumed", "whole"))
        assert wanted.progress.step == STEPS
        return differing_bits(found, wanted)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("resume"))


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "finetune": ("finetune", {}),
    "frozen": ("finetune", {"freeze": 1, "optimiser": {"layer_decay": 0.8}}),
    "checkpointed": ("finetune", {"activation_checkpointing": True}),
    "muon": ("finetune", {"optimiser": {"kind": "muon"}}),
    "pretrain": ("pretrain", {}),
    "sentences": ("pretrain", {"next_sentence": True, "masking": {"final_share": 0.3}}),
    "growing": ("pretrain", {"length_ramp": {"first_tokens": 8, "over_steps": 8}}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_in_two_parts_ends_in_the_bits_of_a_run_in_one(case: str, place: Place) -> None:
    tasks = place.halves(place.task(*CASES[case]), case)
    losses = {name.removeprefix(f"{case}-"): run_task(task)["losses"] for name, task in tasks.items()}
    assert losses["half"] + losses["resumed"] == losses["whole"]
    assert place.differing(case) == []


def test_dropout_is_on_in_these_runs_and_another_seed_draws_otherwise(place: Place) -> None:
    first = run_task(place.task("finetune", {}))["losses"][0]
    assert first == run_task(place.task("finetune", {}))["losses"][0]
    assert first != run_task(place.task("finetune", {"dropout": 0.0}))["losses"][0]
    assert first != run_task(place.task("finetune", {"seed": 1}))["losses"][0]


@pytest.mark.parametrize("verb", ["finetune", "pretrain"])
def test_activations_computed_twice_change_no_step_of_a_run_with_dropout(verb: str, place: Place) -> None:
    plain = run_task(place.task(verb, {}))
    found = run_task(place.task(verb, {"activation_checkpointing": True}))
    assert found["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    assert found["norms"] == pytest.approx(plain["norms"], rel=1e-4)


STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def sharded(place: Place) -> Place:
    tasks: dict[str, Task] = {}
    for stage in STAGES:
        for verb in ("finetune", "pretrain"):
            tasks |= place.halves(place.task(verb, {}, workers=2, stage=stage), f"{verb}-{stage}")
    run_gangs({2: tasks}, place.folder / "gangs")
    return place


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("verb", ["finetune", "pretrain"])
def test_a_sharded_run_in_two_parts_ends_in_the_bits_of_a_run_in_one(verb: str, stage: int, sharded: Place) -> None:
    assert sharded.differing(f"{verb}-{stage}") == []
