"""What engines promise of optimisers: groups, frozen parameters and each optimiser's own state are the same in all of them, checkpoints
go both ways, and a step that the guard objects to leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contracts.test_engines import SHARDED
from tests.support.gang import Task, run_gangs, run_task
from tests.support.steps import one_thread
from tests.support.tiny import make_encoder
from training.checkpoint import Checkpoint

pytestmark = pytest.mark.slow
STEPS, HALF, THREE_QUARTERS, POISONED = 8, 4, 6, 3
WHOLE_TENSORS = ("lamb", "stable_adamw", "muon")
LAYERWISE: dict[str, Any] = {"optimiser": {"layer_decay": 0.6, "weight_decay": 0.1, "clip_norm": 0.5}, "freeze": 1}
CASES = [("layerwise", stage, workers) for stage, workers in SHARDED] + [(kind, 0, 2) for kind in WHOLE_TENSORS]


class Runs:
    """Every run of the contract, made once: sharded ones in two gangs, plain ones here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._encoder = make_encoder(folder / "encoder")
        names = ("layerwise", *WHOLE_TENSORS)
        self.whole = {name: run_task(self.task(name)) for name in names}
        for name in names:
            run_task(self.task(name, steps=HALF, save_to=str(folder / f"half-{name}")))
        self.discarded = run_task(self.discard())
        gangs: dict[int, dict[str, Task]] = {2: {}, 3: {}}
        for name, stage, workers in CASES:
            key, saved = f"{name}-{stage}-{workers}", str(folder / f"saved-{name}-{stage}-{workers}")
            engine = {"stage": stage, "workers": workers}
            gangs[workers][key] = self.task(name, **engine, save_to=str(folder / f"whole-{key}"))
            gangs[workers][f"resumed-{key}"] = self.task(
                name, **engine, steps=THREE_QUARTERS, start_from=str(folder / f"half-{name}"), save_to=saved
            )
        for stage, workers in SHARDED:
            gangs[workers][f"discarded-{stage}-{workers}"] = self.discard(stage=stage, workers=workers)
        self.sharded = run_gangs(gangs, folder / "gangs")

    def task(self, name: str, *, stage: int = 0, workers: int = 1, steps: int = STEPS, **more: Any) -> Task:
        recipe: dict[str, Any] = {
            "data": {"train": "unused"},
            "rows_per_step": 10,
            "rows_per_microbatch": 3,
            "schedule": {"peak_lr": 3e-3},
            "workers": {"count": workers},
            "sharding": {"engine": "torch" if workers == 1 else "deepspeed", "zero_stage": stage},
        }
        recipe |= LAYERWISE if name == "layerwise" else {"optimiser": {"kind": name}}
        return {"verb": "finetune", "encoder": str(self._encoder), "recipe": recipe, "steps": steps, "total_steps": STEPS} | more

    def discard(self, **engine: int) -> Task:
        scratch = self.folder / f"scratch-{engine}"
        return self.task("layerwise", **engine, poisoned=POISONED, poison="loss", scratch=str(scratch))

    def back(self, name: str, stage: int, workers: int) -> dict[str, Any]:
        """The plain engine, from where a sharded one stopped, to the end."""
        return run_task(self.task(name, start_from=str(self.folder / f"saved-{name}-{stage}-{workers}")))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with one_thread():
        yield Runs(tmp_path_factory.mktemp("optimisers"))


@pytest.mark.parametrize(("name", "stage", "workers"), CASES)
def test_groups_and_optimisers_step_alike_in_every_engine_that_carries_them(name: str, stage: int, workers: int, runs: Runs) -> None:
    found, reference = runs.sharded[f"{name}-{stage}-{workers}"], runs.whole[name]
    # Muon orthogonalises in bfloat16, where a difference in the last bit of a sum is seen.
    tolerance = 2e-3 if name == "muon" else 1e-5
    assert found["losses"] == pytest.approx(reference["losses"], rel=tolerance)
    assert found["norms"] == pytest.approx(reference["norms"], rel=10 * tolerance)
    assert found["groups"] == reference["groups"], "decay and layer-wise rates are the recipe's"


@pytest.mark.parametrize(("name", "stage", "workers"), CASES)
def test_checkpoints_of_any_optimiser_go_from_engine_to_engine(name: str, stage: int, workers: int, runs: Runs) -> None:
    sharded, plain = runs.sharded[f"resumed-{name}-{stage}-{workers}"], runs.back(name, stage, workers)
    tolerance = 2e-3 if name == "muon" else 1e-5
    assert sharded["losses"] + plain["losses"] == pytest.approx(runs.whole[name]["losses"][HALF:], rel=tolerance)
    assert plain["groups"] == runs.whole[name]["groups"]


@pytest.mark.parametrize(("stage", "workers"), SHARDED)
def test_frozen_parameters_are_in_a_checkpoint_unchanged_and_without_state(stage: int, workers: int, runs: Runs) -> None:
    begun = Checkpoint.open(runs.folder / "half-layerwise")
    ended = Checkpoint.open(runs.folder / f"whole-layerwise-{stage}-{workers}")
    frozen = [name for name in ended.shapes if "embeddings" in name or ".layer.0." in name]
    assert len(frozen) > 10
    for name in ended.shapes:
        is_unchanged = torch.equal(begun.read("param", name), ended.read("param", name))
        assert is_unchanged == (name in frozen), name
        assert ended.holds("exp_avg", name) == (name not in frozen), name


@pytest.mark.parametrize(("stage", "workers"), [(None, 1), *SHARDED])
def test_a_discarded_step_leaves_parameters_state_and_the_next_gradient_alone(stage: int | None, workers: int, runs: Runs) -> None:
    found = runs.discarded if stage is None else runs.sharded[f"discarded-{stage}-{workers}"]
    assert found["is_applied"] == [step != POISONED for step in range(STEPS)]
    assert found["kept"]
    assert found["applied"] == STEPS - 1
    others = [step for step in range(STEPS) if step != POISONED]
    reference = runs.discarded
    assert [found["losses"][step] for step in others] == pytest.approx([reference["losses"][step] for step in others], rel=1e-5)
    assert [found["norms"][step] for step in others] == pytest.approx([reference["norms"][step] for step in others], rel=1e-4)
    assert found["norms"][:POISONED] == pytest.approx(runs.whole["layerwise"]["norms"][:POISONED], rel=1e-4)
    assert max(found["norms"][step] for step in others) < 100
