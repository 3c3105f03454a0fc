"""What ``raybert plan`` gathers for ``estimate.py``: the recipe's plan, the encoder's dimensions, a worker's memory and peak."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from encoder.config import NewModelConfig
from foundation.errors import ConfigError, EncoderError
from training.config import PretrainConfig, RunConfig
from training.deepspeed_json import DISK_BUFFERS, DISK_SUB_GROUP
from training.estimate import SHARE_ON_CPUS, SHARE_ON_GPUS, Estimate, Pace, Room, estimate
from training.flops import Dimensions, dimensions
from training.footprint import Way
from training.gpus import Gpu, gang_of, gpu
from training.hardware import ONE_NODE_BUCKET, Decisions, Hardware, decide
from training.planning import TrainPlan, attention_of, plan
from training.verb_config import Verb

_GB, _TERA = 1e9, 1e12


@dataclass(frozen=True)
class Given:
    """What the user says of machines that are not this one."""

    gpu: str | None = None
    gpus_per_node: int = 8
    peak_tflops: float | None = None
    """Of one worker."""
    share: float | None = None
    """Of the peak that is reached."""
    memory_gb: float | None = None
    """Of one worker."""
    price: float | None = None
    """An hour of a GPU, or of a worker without."""


def cost(verb: Verb, recipe: RunConfig, given: Given) -> tuple[TrainPlan, Estimate]:
    """Plan a recipe and estimate it; starts and writes nothing.

    Raises:
        InputError: What is wrong with recipe, data or encoder; or what has to be said of GPUs that are not here.
    """
    model = _gpu(recipe, given)
    workers, gpus_each = recipe.workers.most, recipe.workers.gpus_each
    hardware = gang_of(model, max(1, round(workers * gpus_each)), given.gpus_per_node) if model else None
    planned = plan(verb, recipe, hardware)
    if planned.work is None:
        raise EncoderError(f"{recipe.encoder}: no tokenizer of it on this machine counts the rows' tokens; give its folder as encoder")
    shape = recipe.new_model if isinstance(recipe, PretrainConfig) else None
    size = _from_recipe(shape, planned.outputs) if shape else _of_folder(planned.location)
    found = Hardware(**planned.hardware) if planned.hardware else None
    decisions = decide(found, recipe) if found else None
    parameters = planned.parameters or size.layers * size.layer_weights + size.hidden * (size.vocabulary + size.hidden)
    return planned, estimate(
        parameters=parameters,
        rows=planned.rows,
        steps=planned.steps,
        workers=workers,
        gpus_each=gpus_each,
        size=size,
        work=planned.work,
        way=_way(recipe, decisions),
        outputs=planned.outputs,
        room=_room(recipe, found, given),
        pace=_pace(recipe, decisions, model, given),
        price=given.price,
    )


def _gpu(recipe: RunConfig, given: Given) -> Gpu | None:
    if given.gpu is None:
        return None
    model = gpu(given.gpu)
    if recipe.workers.gpus_each <= 0:
        raise ConfigError("--gpu: given, but workers.gpus_each is 0, which trains on CPUs; set workers.gpus_each=1")
    return model


def _from_recipe(shape: NewModelConfig, vocabulary: int) -> Dimensions:
    return Dimensions(
        hidden=shape.hidden,
        intermediate=shape.feed_forward,
        layers=shape.layers,
        vocabulary=vocabulary,
        heads=shape.attention_heads,
        is_gated=shape.family == "modernbert",
    )


def _of_folder(location: str) -> Dimensions:
    from encoder.loading import load_config

    try:
        return dimensions(load_config(location))
    except (AttributeError, TypeError) as error:
        raise EncoderError(f"{location}: its configuration does not tell an encoder's dimensions: {error}") from None


def _way(recipe: RunConfig, decisions: Decisions | None) -> Way:
    precision = decisions.precision.value if decisions else "bf16"
    return Way(
        attention=attention_of(recipe, decisions),
        is_16_bit=precision != "fp32",
        has_dropout=recipe.may_drop_attention,
        recomputes=recipe.activation_checkpointing,
        offload=recipe.sharding.offload,
        disk_buffer_elements=DISK_BUFFERS * DISK_SUB_GROUP if recipe.sharding.offload_folder else 0,
        bucket_elements=decisions.bucket_elements.value if decisions else ONE_NODE_BUCKET,
    )


def _room(recipe: RunConfig, hardware: Hardware | None, given: Given) -> Room:
    if given.memory_gb is not None:
        return Room(round(given.memory_gb * _GB), "given")
    if recipe.workers.gpus_each <= 0:
        count = recipe.workers.most
        return Room(psutil.virtual_memory().total // count, "this machine's" + (f", divided by {count} workers" if count > 1 else ""))
    if hardware is None:
        raise ConfigError("plan: no GPU on this machine, so none to plan for; say which with --gpu, or give --peak-tflops and --memory")
    return Room(hardware.gpu_bytes, hardware.gpu or "the GPU's")


def _pace(recipe: RunConfig, decisions: Decisions | None, model: Gpu | None, given: Given) -> Pace:
    on_gpus = recipe.workers.gpus_each > 0
    share = given.share or (SHARE_ON_GPUS if on_gpus else SHARE_ON_CPUS)
    if given.peak_tflops is not None:
        return Pace(given.peak_tflops * _TERA, share, "given")
    if model and decisions:
        return Pace(model.peak(decisions.precision.value), share, f"{model.name}'s data sheet, {decisions.precision.value}")
    if on_gpus and decisions is None:
        raise ConfigError("plan: no GPU on this machine, so none to measure; say which with --gpu, or give --peak-tflops and --memory")
    return Pace(_measured(recipe, decisions), share, "measured here")


def _measured(recipe: RunConfig, decisions: Decisions | None) -> float:
    import torch

    from training.measuring import measured_peak

    if recipe.workers.gpus_each > 0:
        types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        return measured_peak(torch.device("cuda", 0), types[decisions.precision.value] if decisions else torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(recipe.workers.cpus_each)))
    try:
        return measured_peak(torch.device("cpu"))
    finally:
        torch.set_num_threads(before)
