"""What a run will take: the stage that is recommended, time, cost, and the steps it is reckoned from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from foundation.errors import ConfigError
from training.config import FinetuneConfig, PretrainConfig
from training.division import Limits, microbatches_of_rank
from training.estimate import Estimate, Pace, Room, estimate, recommended
from training.flops import Dimensions
from training.footprint import Way
from training.gpus import GPUS, gang_of, gpu
from training.hardware import decide
from training.workload import Workload, workload

GB = 10**9
SIZE = Dimensions(hidden=512, intermediate=2048, layers=4, vocabulary=30_522, heads=8)
WORK = Workload(tokens=4096, attended=128, asked_share=0.15, mask_share=0.15, microbatches=1, microbatch_tokens=2048, microbatch_asked=307)


def made(**more: Any) -> Estimate:
    given: dict[str, Any] = {
        "parameters": 28_800_000,
        "rows": 10_000,
        "steps": 100,
        "workers": 2,
        "gpus_each": 1,
        "size": SIZE,
        "work": WORK,
        "way": Way("varlen", is_16_bit=True),
        "outputs": 30_522,
        "room": Room(16 * GB, "test"),
        "pace": Pace(100e12, 0.5, "test"),
    }
    return estimate(**(given | more))


@pytest.mark.parametrize(
    ("resident", "microbatches", "best"),
    [
        ({"0": 10, "1": 8, "2": 7, "3": 5}, 1, "2"),  # 0, 1 and 2 communicate alike; 2 holds least
        ({"0": 10, "1": 8, "2": 7, "3": 5}, 4, "1"),  # 2 would reduce four times
        ({"0": 7, "1": 8, "2": 9, "3": 5}, 4, "0"),
        ({"0": 200, "1": 95, "2": 60, "3": 50}, 4, "2"),  # 1 would fill more than nine tenths
        ({"0": 200, "1": 150, "2": 120, "3": 80}, 1, "3"),
        ({"0": 200, "1": 150, "2": 120, "3": 100}, 1, "none"),
        ({"torch": 80}, 3, "torch"),
        ({"torch": 95}, 1, "none"),
    ],
)
def test_the_stage_that_fits_and_communicates_least_is_recommended(resident: dict[str, int], microbatches: int, best: str) -> None:
    found = recommended(resident, 100, microbatches)
    assert found.value == best
    assert found.reason


def test_what_would_not_fit_is_named() -> None:
    assert "ZeRO 0, 1 would not fit" in recommended({"0": 200, "1": 150, "2": 60, "3": 50}, 100, 1).reason


def test_time_is_computation_over_what_all_workers_reach_and_cost_is_hours_of_all_gpus() -> None:
    found = made(price=2.0)
    assert found.seconds == pytest.approx(found.flops / (2 * 50e12))
    assert found.flops == pytest.approx(100 * found.flops_per_step)
    assert found.cost == pytest.approx(2.0 * 2 * found.seconds / 3600)
    assert made(workers=4).seconds == pytest.approx(found.seconds / 2)
    assert made(price=None).cost is None
    assert made(gpus_each=0, price=1.0).cost == pytest.approx(2 * found.seconds / 3600)  # a price of workers, where there are no GPUs


def test_computation_of_a_step_is_the_formula_of_the_training_meter() -> None:
    # 4 layers of 512, 128 tokens attended to, 15 % asked for and predicted: see flops.py.
    layers, last, head = 3 * 12 * 512**2, (2 + 10 * 0.15) * 512**2, 0.15 * (512**2 + 512 * 30_522)
    attention = 12 * 512 * 128 * (3 + 0.15)
    assert made().flops_per_step == pytest.approx(4096 * (6 * (layers + last + head) + attention))


def test_larger_micro_batches_are_offered_as_far_as_they_fit() -> None:
    many = replace(WORK, microbatches=6)
    assert made(work=many).microbatch_growth == 8  # one micro-batch of six
    assert made(work=many, room=Room(2 * GB, "test")).microbatch_growth == 2
    assert made(work=WORK).microbatch_growth == 1
    assert made(work=many, room=Room(GB // 10, "test")).microbatch_growth == 1  # nothing fits


def test_one_worker_is_planned_without_stages_and_several_with_all() -> None:
    assert list(made(workers=1).memory) == ["torch"]
    assert list(made().memory) == ["0", "1", "2", "3"]
    assert made().as_json()["memory"]["2"]["tensors"] == made().memory["2"].tensors


def finetune(**more: Any) -> FinetuneConfig:
    return FinetuneConfig.model_validate({"data": {"train": "x"}, "rows_per_step": 8} | more)


def test_a_steps_micro_batches_are_those_that_the_loop_makes() -> None:
    recipe = finetune(tokens_per_microbatch=50, workers={"count": 2})
    found = workload(recipe, 100, [20], [20], "runs")
    of_loop = [microbatches_of_rank([20] * 8, rank, 2, Limits(50)) for rank in range(2)]
    assert found.microbatches == len(of_loop[0]) == len(of_loop[1]) == 2
    assert found.microbatch_tokens == 40
    assert (found.tokens, found.attended, found.asked_share, found.mask_share) == (160, 20, 1 / 20, 0)


def test_padded_rows_count_as_long_as_the_longest_beside_them() -> None:
    recipe = finetune(rows_per_step=2)
    lengths = [10, 30]
    assert workload(recipe, 10, lengths, lengths, "runs").microbatch_tokens == 60  # the same row may be drawn twice
    found = workload(recipe, 10, lengths, lengths, "padded")
    assert found.microbatch_tokens == 60
    assert found.attended == 30


def pretrain(**more: Any) -> PretrainConfig:
    return PretrainConfig.model_validate({"data": "packed", "rows_per_step": 16} | more)


def test_a_batch_warm_up_has_fewer_tokens_in_the_mean_step() -> None:
    ramp = {"first_rows": 8, "increment": 8, "over_rows": 80}
    plain = workload(pretrain(), 20, [128], [128], "runs")
    ramped = workload(pretrain(batch_ramp=ramp), 20, [128], [128], "runs")
    assert plain.tokens == 16 * 128
    assert ramped.tokens == (10 * 8 + 10 * 16) / 20 * 128
    assert ramped.microbatch_tokens == plain.microbatch_tokens


def test_a_mask_share_that_falls_counts_its_mean_and_needs_memory_for_its_most() -> None:
    found = workload(pretrain(mask_share=0.3, masking={"final_share": 0.1}), 20, [100], [100], "runs")
    assert found.mask_share == found.asked_share == pytest.approx(0.2)
    assert found.microbatch_asked == round(0.3 * found.microbatch_tokens)


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_has_its_decisions_without_being_here(name: str) -> None:
    model = gpu(name.upper())
    hardware = gang_of(model, 12, 8)
    assert (hardware.nodes, hardware.gpus_per_node, hardware.gpus) == (2, 8, 16)
    chosen = decide(hardware, pretrain(workers={"count": 12, "gpus_each": 1}))
    assert chosen.precision.value == ("bf16" if model.capability >= (8, 0) else "fp16")
    assert model.peak(chosen.precision.value) > model.peak("fp32")


def test_an_unknown_gpu_is_refused_with_those_known() -> None:
    with pytest.raises(ConfigError, match=r"a100-80gb.*--peak-tflops"):
        gpu("riva128")
