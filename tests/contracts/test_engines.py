"""One contract for every engine: the reference's losses, norms and metrics, skipped steps, and checkpoints that go both ways."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gang import Task, run_gangs, run_task
from tests.support.steps import one_thread
from tests.support.tiny import make_encoder, make_packed
from training.footprint import state_bytes

pytestmark = pytest.mark.slow
STEPS = 12
HALF, THREE_QUARTERS, POISONED = STEPS // 2, STEPS * 3 // 4, 4
PRETRAINING = 18
SHARDED = [(0, 2), (1, 2), (2, 2), (3, 2), (2, 3)]  # ZeRO stage, workers
CASES = [*(f"{stage}-{workers}" for stage, workers in SHARDED), "2-2-optimiser", "3-2-all"]
"""The same, and what is offloaded."""
Figures = dict[str, Any]


class Runs:
    """Every run of the contract, made once: sharded ones in two gangs, plain ones here."""

    def __init__(self, folder: Path) -> None:
        self._encoder = make_encoder(folder / "encoder")
        self._packed = make_packed(folder / "packed", self._encoder)
        self._folder = folder
        half = str(folder / "half")
        self.half = run_task(self.finetune("torch", 0, 1, steps=HALF, total_steps=STEPS, save_to=half))
        self.whole = run_task(self.finetune("torch", 0, 1))
        self.poisoned = run_task(self.poison("torch", 0, 1))
        self.pretrained = run_task(self.pretrain("torch", 0, 1))
        gangs: dict[int, dict[str, Task]] = {2: {}, 3: {}}
        for name in CASES:
            stage, workers, *offload = name.split("-")
            tasks, engine = gangs[int(workers)], ("deepspeed", int(stage), int(workers), *offload)
            tasks[f"whole-{name}"] = self.finetune(*engine)
            saved = str(folder / f"saved-{name}")
            tasks[f"resumed-{name}"] = self.finetune(*engine, steps=THREE_QUARTERS, total_steps=STEPS, start_from=half, save_to=saved)
            tasks[f"poisoned-{name}"] = self.poison(*engine)
            tasks[f"pretrained-{name}"] = self.pretrain(*engine)
        self.sharded = run_gangs(gangs, folder / "gangs")

    def finetune(self, engine: str, stage: int, workers: int, offload: str = "none", **more: Any) -> Task:
        recipe = {
            "data": {"train": "unused"},
            "rows_per_step": 10,  # divides neither 3 workers nor the micro-batch
            "rows_per_microbatch": 3,
            "schedule": {"peak_lr": 3e-3},
            "optimiser": {"weight_decay": 0.1, "clip_norm": 0.5},
            "workers": {"count": workers},
            "sharding": {"engine": engine, "zero_stage": stage, "offload": offload},
        }
        return {"verb": "finetune", "encoder": str(self._encoder), "steps": STEPS, "recipe": recipe} | more

    def poison(self, engine: str, stage: int, workers: int, offload: str = "none") -> Task:
        scratch = self._folder / f"scratch-{engine}-{stage}-{workers}-{offload}"
        return self.finetune(
            engine, stage, workers, offload, steps=POISONED + 3, total_steps=STEPS, poisoned=POISONED, scratch=str(scratch)
        )

    def pretrain(self, engine: str, stage: int, workers: int, offload: str = "none") -> Task:
        task = self.finetune(engine, stage, workers, offload, steps=PRETRAINING)
        recipe = task["recipe"] | {"data": str(self._packed), "steps": PRETRAINING, "rows_per_step": 7, "rows_per_microbatch": 2}
        return task | {"verb": "pretrain", "recipe": recipe}

    def back(self, name: str) -> Figures:
        """The plain engine, from where a sharded one stopped, to the end."""
        return run_task(self.finetune("torch", 0, 1, start_from=str(self._folder / f"saved-{name}")))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with one_thread():
        yield Runs(tmp_path_factory.mktemp("engines"))


@pytest.mark.parametrize("name", CASES)
def test_a_sharded_engine_follows_the_reference(name: str, runs: Runs) -> None:
    found = runs.sharded[f"whole-{name}"]
    assert found["losses"] == pytest.approx(runs.whole["losses"], rel=1e-5)
    assert found["norms"] == pytest.approx(runs.whole["norms"], rel=1e-4)
    assert found["metrics"] == pytest.approx(runs.whole["metrics"], rel=1e-4)
    assert found["applied"] == STEPS
    assert found["consumed"] == runs.whole["consumed"], "each step has the same rows"


@pytest.mark.parametrize("name", CASES)
def test_a_sharded_engine_follows_the_reference_with_a_tied_decoder_and_unequal_masks(name: str, runs: Runs) -> None:
    found = runs.sharded[f"pretrained-{name}"]
    assert found["losses"] == pytest.approx(runs.pretrained["losses"], rel=1e-5)
    assert found["norms"] == pytest.approx(runs.pretrained["norms"], rel=1e-4)
    assert found["metrics"] == pytest.approx(runs.pretrained["metrics"], rel=1e-4)
    assert found["consumed"] == runs.pretrained["consumed"], "each step has the same rows and masks"
    assert found["unlike"] > 0, "a rank that could compute the last layer in a shorter way has to do as the others"


@pytest.mark.parametrize(("stage", "workers"), SHARDED)
def test_a_worker_holds_what_zeros_formula_says(stage: int, workers: int, runs: Runs) -> None:
    found = runs.sharded[f"whole-{stage}-{workers}"]
    assert found["held_bytes"] == pytest.approx(state_bytes(stage, found["parameters"], workers), rel=0.05)


@pytest.mark.parametrize("name", CASES)
def test_a_sharded_engine_goes_on_from_the_reference_checkpoint_and_back(name: str, runs: Runs) -> None:
    sharded, plain = runs.sharded[f"resumed-{name}"], runs.back(name)
    assert sharded["losses"] + plain["losses"] == pytest.approx(runs.whole["losses"][HALF:], rel=1e-5)
    assert sharded["consumed"] + plain["consumed"] == runs.whole["consumed"][HALF:]
    assert plain["applied"] == STEPS


@pytest.mark.parametrize("name", [None, *CASES])
def test_every_engine_skips_a_gradient_that_is_not_finite(name: str | None, runs: Runs) -> None:
    found = runs.poisoned if name is None else runs.sharded[f"poisoned-{name}"]
    assert found["is_applied"] == [step != POISONED for step in range(POISONED + 3)]
    assert found["kept"]
    assert found["applied"] == POISONED + 2
    assert not math.isfinite(found["norms"][POISONED])
    for step in (*range(POISONED), POISONED + 1, POISONED + 2):
        assert found["losses"][step] == pytest.approx(runs.poisoned["losses"][step], rel=1e-5)
    assert found["losses"][POISONED + 1] < float("inf")
