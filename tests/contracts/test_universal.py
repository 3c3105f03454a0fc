"""DeepSpeed's universal checkpoints: a program that trains with DeepSpeed alone stops, its checkpoint goes through ours, and it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.gang import Task, run_gangs
from training.checkpoint import Checkpoint
from training.universal import Universal, export_universal, import_universal

pytestmark = pytest.mark.slow
STEPS, HALF = 8, 4
GROUPS = {1: 1, 2: 2, 3: 1}
"""ZeRO stage that wrote, on two workers, to the optimiser's groups. When DeepSpeed 0.19 loads a universal checkpoint at stage 3, all groups
share one tensor that counts steps, so with two it counts double."""
LOADED = {2: [(2, 1), (1, 2), (3, 3)], 3: [(3, 2), (1, 3)]}
"""Workers to pairs of the stage that wrote and the one that loads."""
GONE_ON = [f"{written}-{stage}-{workers}" for workers, pairs in LOADED.items() for written, stage in pairs]


class Runs:
    """A plain run, and its halves before and after the way through our form."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        first: dict[str, Task] = {f"{stage}": plain(stage, stage, HALF, save=str(folder / f"saved-{stage}")) for stage in GROUPS}
        first |= {f"whole-{stage}": plain(stage, stage, STEPS) for stage in GROUPS}
        self.first = run_gangs({2: first}, folder / "first")
        for stage in GROUPS:
            import_universal(Universal(self.universal(stage)), folder / f"ours-{stage}")
            export_universal(Checkpoint.open(folder / f"ours-{stage}"), folder / f"exported-{stage}")
        second: dict[int, dict[str, Task]] = {workers: {} for workers in LOADED}
        for workers, pairs in LOADED.items():
            for written, stage in pairs:
                second[workers][f"{written}-{stage}-{workers}"] = plain(written, stage, STEPS, load=str(folder / f"exported-{written}"))
        self.second = run_gangs(second, folder / "second")

    def universal(self, stage: int) -> Path:
        return self.folder / f"saved-{stage}" / "universal"


def plain(written: int, stage: int, steps: int, **more: str) -> Task:
    return {"verb": "plain_deepspeed", "groups": GROUPS[written], "stage": stage, "steps": steps} | more


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("universal"))


@pytest.mark.parametrize("stage", GROUPS)
def test_a_universal_checkpoint_of_deepspeed_is_read_bit_for_bit(stage: int, runs: Runs) -> None:
    ours = Checkpoint.open(runs.folder / f"ours-{stage}")
    assert ours.progress.step == ours.progress.optimiser_steps == HALF
    assert set(ours.shapes) == {"words.weight", "norm.weight", "norm.bias", "decoder.bias"} | {
        f"layers.{layer}.{kind}" for layer in range(3) for kind in ("weight", "bias")
    }, "a tied tensor is there once"
    for name in ours.shapes:
        for kind, file in (("param", "fp32"), ("exp_avg", "exp_avg"), ("exp_avg_sq", "exp_avg_sq")):
            found: Any = torch.load(runs.universal(stage) / f"global_step{HALF}" / "zero" / name / f"{file}.pt")
            tensor = found["param"] if isinstance(found, dict) else found
            assert torch.equal(ours.read(kind, name), tensor.detach().reshape(-1)), (name, kind)


@pytest.mark.parametrize("name", GONE_ON)
def test_deepspeed_goes_on_from_what_was_exported_as_if_nothing_had_happened(name: str, runs: Runs) -> None:
    written, _, _ = name.split("-")
    losses = runs.first[written]["losses"] + runs.second[name]["losses"]
    assert len(losses) == STEPS
    assert losses == pytest.approx(runs.first[f"whole-{written}"]["losses"], rel=1e-5)
