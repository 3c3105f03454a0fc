"""The DeepSpeed JSON of a recipe, pure: tested as data, printed under ``--dry-run``, read by ``zero.py``.

Every default that alters numbers is written out, because DeepSpeed 0.19 changed several of them (clipping 0 → 1.0, overflow checks).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.errors import ConfigError
from training.config import RunConfig
from training.hardware import ONE_NODE_BUCKET, Decisions

# Autocast runs inside the model (engine.py), with fp32 weights and gradients, so DeepSpeed sees fp32 whatever the precision.
_PRECISION = "precision"

# Keys of a DeepSpeed JSON that the recipe decides elsewhere.
_OWNED = {
    "train_batch_size": "rows_per_step",
    "train_micro_batch_size_per_gpu": "rows_per_microbatch",
    "gradient_accumulation_steps": "rows_per_step and rows_per_microbatch",
    "managed_gradient_accumulation": "the training loop",
    "gradient_clipping": "optimiser.clip_norm",
    "optimizer": "optimiser",
    "scheduler": "schedule",
    "fp16": _PRECISION,
    "bf16": _PRECISION,
    "amp": _PRECISION,
    "torch_autocast": _PRECISION,
    "data_types": _PRECISION,
    "communication_data_type": _PRECISION,
    "zero_optimization.stage": "sharding.zero_stage",
    "zero_optimization.offload_optimizer": "sharding.offload",
    "zero_optimization.offload_param": "sharding.offload",
}
AUTO = "auto"
# Pinned memory is what a GPU copies from without waiting.
_TO_CPU = {"device": "cpu", "pin_memory": True}
DISK_SUB_GROUP, DISK_BUFFERS = 20_000_000, 5
"""Elements of a sub-group whose states lie on a disk, and how many of that size are in memory: with AdamW what is stepped, its gradient and
two moments, and one to spare."""


def deepspeed_config(recipe: RunConfig, decisions: Decisions | None = None, disk: Path | None = None) -> dict[str, Any]:
    """The DeepSpeed JSON of a recipe; pure.

    Args:
        recipe: The recipe.
        decisions: What the hardware decides; None, where it is not known yet, renders one node's.
        disk: This rank's own folder below ``sharding.offload_folder``.

    Raises:
        ConfigError: ``sharding.deepspeed`` says something else than the recipe field that decides it; the message names both.
    """
    raw = _without_auto(recipe.sharding.deepspeed)
    if not isinstance(raw.get("zero_optimization", {}), Mapping):
        raise ConfigError(f"sharding.deepspeed.zero_optimization: found {raw['zero_optimization']!r}, expected a group of keys")
    same = {
        "train_batch_size": recipe.rows_per_step,
        "gradient_clipping": recipe.optimiser.clip_norm,
        "zero_optimization.stage": recipe.sharding.zero_stage,
    }
    for key, owner in _OWNED.items():
        group, _, leaf = key.rpartition(".")
        given = {**raw.get(group, {})} if group else raw
        if leaf not in given:
            continue
        if key not in same:
            raise ConfigError(f'sharding.deepspeed.{key}: {owner} of the recipe decides it; remove the key, or set it to "{AUTO}"')
        if given.pop(leaf) != same[key]:
            raise ConfigError(
                f'sharding.deepspeed.{key}: contradicts the recipe, where {owner} is {same[key]}; remove the key, or set it to "{AUTO}"'
            )
        raw = {**raw, group: given} if group else given
    stage = recipe.sharding.zero_stage
    bucket = decisions.bucket_elements.value if decisions else ONE_NODE_BUCKET
    ours: dict[str, Any] = {
        # DeepSpeed insists on a consistent triple; with our own accumulation nothing reads it.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # At stage 0 our optimiser clips (see zero.py), elsewhere DeepSpeed does.
        "gradient_clipping": recipe.optimiser.clip_norm if stage else 0.0,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        # Ours is a sum over the step's tokens; only stage 3 insists on a mean.
        "gradient_allreduce_op": "sum" if stage < 3 else "mean",
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "fp16": {"enabled": False},
        "bf16": {"enabled": False, "check_grad_overflow": True},
        "torch_autocast": {"enabled": False},
        "zero_allow_untested_optimizer": False,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage,
            "contiguous_gradients": True,
            # DeepSpeed's copies the bucket first (at stages 1 and 2 for an all-reduce); between CPUs that costs more than it saves.
            "reduce_scatter": recipe.workers.gpus_each > 0,
            "reduce_bucket_size": bucket,
            "allgather_partitions": True,
            "allgather_bucket_size": bucket,
            # Overlap needs partitioned gradients, and streams, which a CPU has not.
            "overlap_comm": decisions.overlap_comm.value if decisions else stage >= 2 and recipe.workers.gpus_each > 0,
            "round_robin_gradients": False,
            "load_from_fp32_weights": True,
            "ignore_unused_parameters": True,
            "compute_grad_norm": True,
            "zero_hpz_partition_size": 1,
            "zero_quantized_weights": False,
            "zero_quantized_nontrainable_weights": False,
            "zero_quantized_gradients": False,
        },
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }
    if stage == 3:
        ours["zero_optimization"] |= {
            "sub_group_size": 1_000_000_000,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": 100_000,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": False,
        }
    if recipe.sharding.offload != "none":
        ours["zero_optimization"]["offload_optimizer"] = _TO_CPU
    if recipe.sharding.offload_folder is not None:
        to_disk = {"device": "nvme", "nvme_path": str(disk or recipe.sharding.offload_folder), "buffer_count": DISK_BUFFERS}
        ours["zero_optimization"] |= {"sub_group_size": DISK_SUB_GROUP, "offload_optimizer": _TO_CPU | to_disk}
    if recipe.sharding.offload == "all":
        ours["zero_optimization"]["offload_param"] = _TO_CPU
    return _merged(ours, raw)


def _without_auto(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What is left to raybert is not there; nor is a group that says nothing else."""
    kept = {key: _without_auto(value) if isinstance(value, Mapping) else value for key, value in raw.items() if value != AUTO}
    return {key: value for key, value in kept.items() if value != {} or raw[key] == {}}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        result[key] = _merged(result[key], value) if isinstance(value, Mapping) and isinstance(result.get(key), Mapping) else value
    return result
