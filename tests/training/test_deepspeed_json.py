"""The DeepSpeed JSON is data: the golden files hold it, and nothing that alters numbers is left to DeepSpeed's defaults.

After a deliberate change: RAYBERT_WRITE_GOLDEN=1 pytest tests/training/test_deepspeed_json.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from foundation.errors import ConfigError
from training.config import FinetuneConfig
from training.deepspeed_json import deepspeed_config

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
STAGES = (0, 1, 2, 3)


def recipe(stage: int = 2, raw: dict[str, Any] | None = None, **more: Any) -> FinetuneConfig:
    tree = {"data": {"train": "x.csv"}, "workers": {"count": 2}, "sharding": {"zero_stage": stage, "deepspeed": raw or {}}}
    return FinetuneConfig.model_validate(tree | more)


@pytest.mark.parametrize("stage", STAGES)
def test_the_json_of_each_stage_is_the_golden_one(stage: int) -> None:
    file = GOLDEN / f"deepspeed_zero{stage}.json"
    text = json.dumps(deepspeed_config(recipe(stage)), indent=2, sort_keys=True) + "\n"
    if os.environ.get("RAYBERT_WRITE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("raw", "owner"),
    [
        ({"train_batch_size": 8}, "rows_per_step"),
        ({"train_micro_batch_size_per_gpu": 8}, "rows_per_microbatch"),
        ({"gradient_accumulation_steps": 2}, "rows_per_step and rows_per_microbatch"),
        ({"managed_gradient_accumulation": True}, "the training loop"),
        ({"gradient_clipping": 0.1}, r"optimiser\.clip_norm"),
        ({"optimizer": {"type": "Adam"}}, "optimiser"),
        ({"scheduler": {"type": "WarmupLR"}}, "schedule"),
        ({"fp16": {"enabled": True}}, "precision"),
        ({"bf16": {"enabled": True}}, "precision"),
        ({"amp": {"enabled": True}}, "precision"),
        ({"torch_autocast": {"enabled": True}}, "precision"),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, "precision"),
        ({"communication_data_type": "fp16"}, "precision"),
        ({"zero_optimization": {"stage": 1}}, r"sharding\.zero_stage"),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme", "nvme_path": "/scratch"}}}, r"sharding\.offload"),
        ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, r"sharding\.offload"),
    ],
)
def test_a_key_that_the_recipe_owns_is_refused_by_both_names(raw: dict[str, Any], owner: str) -> None:
    (key,) = raw
    with pytest.raises(ConfigError, match=rf"sharding\.deepspeed\.{key}.*{owner}"):
        deepspeed_config(recipe(raw=raw))


def test_auto_leaves_a_key_to_the_recipe_wherever_it_stands() -> None:
    raw = {
        "train_batch_size": "auto",
        "fp16": {"enabled": "auto", "loss_scale": "auto"},
        "optimizer": {"type": "auto", "params": {"lr": "auto"}},
        "zero_optimization": {"stage": "auto", "reduce_bucket_size": "auto", "allgather_bucket_size": 5},
    }
    plain, merged = deepspeed_config(recipe()), deepspeed_config(recipe(raw=raw))
    assert merged == plain | {"zero_optimization": plain["zero_optimization"] | {"allgather_bucket_size": 5}}


def test_a_key_that_says_what_the_recipe_says_is_no_contradiction() -> None:
    raw = {"train_batch_size": 32, "gradient_clipping": 0.7, "zero_optimization": {"stage": 3}}
    more: dict[str, Any] = {"rows_per_step": 32, "optimiser": {"clip_norm": 0.7}}
    assert deepspeed_config(recipe(3, raw=raw, **more)) == deepspeed_config(recipe(3, **more))
    with pytest.raises(ConfigError, match=r"train_batch_size: contradicts the recipe, where rows_per_step is 16; remove the key, or set"):
        deepspeed_config(recipe(3, raw=raw, **(more | {"rows_per_step": 16})))


def test_what_is_offloaded_is_said_to_deepspeed() -> None:
    to_cpu = {"device": "cpu", "pin_memory": True}
    zero = [
        deepspeed_config(recipe(3, sharding={"zero_stage": 3, "offload": offload}))["zero_optimization"]
        for offload in ("none", "optimiser", "all")
    ]
    assert [(one.get("offload_optimizer"), one.get("offload_param")) for one in zero] == [(None, None), (to_cpu, None), (to_cpu, to_cpu)]


def test_states_that_go_to_a_disk_are_read_in_pieces_from_a_ranks_own_folder(tmp_path: Path) -> None:
    asked = recipe(3, sharding={"zero_stage": 3, "offload": "all", "offload_folder": "/scratch"})
    zero = deepspeed_config(asked, disk=tmp_path)["zero_optimization"]
    assert (zero["offload_optimizer"]["device"], zero["offload_optimizer"]["nvme_path"]) == ("nvme", str(tmp_path))
    assert zero["offload_param"]["device"] == "cpu"
    assert zero["sub_group_size"] < deepspeed_config(recipe(3))["zero_optimization"]["sub_group_size"]
    assert deepspeed_config(asked)["zero_optimization"]["offload_optimizer"]["nvme_path"] == "/scratch"


@pytest.mark.parametrize(("stage", "offload"), [(3, "none"), (2, "optimiser")])
def test_a_disk_without_anything_for_it_is_refused(stage: int, offload: str) -> None:
    says = rf"offload_folder takes ZeRO 3 and sharding\.offload, but has ZeRO {stage} and {offload}"
    with pytest.raises(ValueError, match=says):
        recipe(sharding={"zero_stage": stage, "offload": offload, "offload_folder": "/scratch"})


@pytest.mark.parametrize(
    ("stage", "offload", "says"), [(0, "optimiser", "takes ZeRO 1 or more"), (2, "all", "takes ZeRO 3, but zero_stage is 2")]
)
def test_what_a_stage_cannot_offload_is_refused(stage: int, offload: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        recipe(sharding={"zero_stage": stage, "offload": offload})


def test_one_worker_without_zero_has_nothing_to_offload() -> None:
    with pytest.raises(ValueError, match=r"one worker runs without ZeRO \(sharding\.engine=deepspeed has it\)"):
        recipe(workers={"count": 1}, sharding={"offload": "optimiser"})


def test_a_group_that_is_no_group_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sharding\.deepspeed\.zero_optimization: found 2, expected a group"):
        deepspeed_config(recipe(raw={"zero_optimization": 2}))


def test_other_keys_are_merged_over_ours_and_leave_their_neighbours() -> None:
    raw = {"zero_optimization": {"reduce_bucket_size": 5}, "wall_clock_breakdown": True}
    plain, merged = deepspeed_config(recipe()), deepspeed_config(recipe(raw=raw))
    assert merged["zero_optimization"] == plain["zero_optimization"] | {"reduce_bucket_size": 5}
    assert merged["wall_clock_breakdown"] is True


def test_clipping_is_ours_at_stage_0_and_deepspeeds_above() -> None:
    found = [deepspeed_config(recipe(stage, optimiser={"clip_norm": 0.7}))["gradient_clipping"] for stage in STAGES]
    assert found == [0.0, 0.7, 0.7, 0.7]


def test_overlap_is_asked_for_only_with_gpus_and_partitioned_gradients() -> None:
    on_gpus = {"workers": {"count": 2, "gpus_each": 1}}
    assert [deepspeed_config(recipe(stage, **on_gpus))["zero_optimization"]["overlap_comm"] for stage in STAGES] == [
        False,
        False,
        True,
        True,
    ]
    assert not any(deepspeed_config(recipe(stage))["zero_optimization"]["overlap_comm"] for stage in STAGES)


# Fields of DeepSpeed's own ZeRO model that may keep their defaults, because none changes what is computed with our models.
_NEUTRAL = {
    "offload_param": "sharding.offload",
    "offload_optimizer": "sharding.offload",
    "zenflow": "off",
    "cpu_offload": "deprecated",
    "cpu_offload_param": "deprecated",
    "cpu_offload_use_pin_memory": "deprecated",
    "stage3_gather_fp16_weights_on_model_save": "deprecated",
    "elastic_checkpoint": "concerns DeepSpeed's checkpoints",
    "pipeline_loading_checkpoint": "concerns DeepSpeed's checkpoints",
    "legacy_stage1": "off",
    "log_trace_cache_warnings": "words",
    "enable_sanity_checks": "off",
    "save_muon_momentum_buffer_in_memory": "another optimiser",
    "leaf_module": "no mixture of experts here",
    "override_module_apply": "concerns construction under zero.Init, which is not used",
    "use_multi_rank_bucket_allreduce": "which rank sums what",
    "parameter_alignment": "layout only",
    "memory_efficient_linear": "memory only",
    "stage3_module_granularity_threshold": "prefetching only",
    "stage3_use_all_reduce_for_fetch_params": "how parameters travel, unrounded",
    "stage3_allgather_sequential": "how parameters travel, unrounded",
    "stage3_model_persistence_threshold": "which parameters stay, unrounded",
}


@pytest.mark.slow
def test_no_zero_setting_that_alters_numbers_is_left_to_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    ours = set(deepspeed_config(recipe(3))["zero_optimization"])
    theirs = {field.alias or name for name, field in DeepSpeedZeroConfig.model_fields.items()}
    assert ours <= theirs
    assert theirs - ours - set(_NEUTRAL) == set()


def test_everything_outside_zero_that_alters_numbers_is_written_out() -> None:
    wanted = {
        "gradient_clipping",
        "prescale_gradients",
        "gradient_predivide_factor",
        "gradient_allreduce_op",
        "communication_data_type",
        "data_types",
        "fp16",
        "bf16",
        "torch_autocast",
        "zero_force_ds_cpu_optimizer",
    }
    for stage in STAGES:
        assert wanted <= set(deepspeed_config(recipe(stage)))
