"""What a run will take, by formula: memory at each ZeRO stage, which stage is best, time and cost. Pure; facts come in as data.

Time is the steps' alone: starting, evaluating and checkpoints come on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from training.flops import Dimensions, flops_per_token
from training.footprint import STAGES, Footprint, Microbatch, Way, footprint
from training.hardware import Choice
from training.workload import Workload

SPARE = 0.9
"""Share of a worker's memory that a plan fills; the rest is for what the formula does not know."""
SHARE_ON_CPUS, SHARE_ON_GPUS = 0.8, 0.4
"""Of peak that a run is taken to reach when nothing is said. On CPUs 0.75 to 0.93 were measured (two cores, 4 x 256 to 12 x 768); on GPUs
it is a guess, not measured."""
_HOUR = 3600.0


@dataclass(frozen=True)
class Pace:
    """How fast a worker computes."""

    peak: float
    """FLOPs a second of one worker."""
    share: float
    """Of it that a run reaches."""
    source: str
    """Where the peak is from."""


@dataclass(frozen=True)
class Room:
    """Memory for one worker."""

    bytes: int
    source: str


@dataclass(frozen=True)
class Estimate:
    """Before anything is started."""

    parameters: int
    rows: int
    steps: int
    tokens_per_step: int
    tokens: int
    flops_per_step: float
    flops: float
    microbatches: int
    """Of each worker, in a step."""
    microbatch_tokens: int
    """Of the largest."""
    microbatch_growth: int
    """How many times as many tokens at once would still fit at the stage to use, with fewer micro-batches; 1 is none."""
    memory: dict[str, Footprint]
    """``torch``, or ZeRO stage to one worker's bytes."""
    room: Room
    stage: Choice[str]
    """What to use, and why; ``torch`` is no sharding, ``none`` that no stage fits."""
    pace: Pace
    seconds: float
    cost: float | None
    """In the unit of the price; None without one."""
    price: float | None
    """An hour of a GPU; of a worker, where there are none."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {
            "memory": {name: asdict(part) | {"tensors": part.tensors} for name, part in self.memory.items()},
        }


def estimate(
    *,
    parameters: int,
    rows: int,
    steps: int,
    workers: int,
    gpus_each: float,
    size: Dimensions,
    work: Workload,
    way: Way,
    outputs: int,
    room: Room,
    pace: Pace,
    price: float | None = None,
) -> Estimate:
    """Everything about a run.

    Args:
        parameters: Of the model.
        rows: To train on.
        steps: Optimiser steps.
        workers: How many.
        gpus_each: GPUs of each; 0 trains on CPUs.
        size: The encoder.
        work: A step's.
        way: How it is computed; how many micro-batches there are is ``work``'s affair.
        outputs: Logits for each token that is asked for.
        room: A worker's memory.
        pace: A worker's.
        price: Of an hour of a GPU, or of a worker without.
    """

    def held(stage: int | None, times: int = 1) -> Footprint:
        micro = Microbatch(times * work.microbatch_tokens, times * work.microbatch_asked, work.attended, outputs)
        count = -(-work.microbatches // times)
        return footprint(stage, parameters, workers, size, micro, replace(way, microbatches=count), on_gpu=gpus_each > 0)

    stages: tuple[int | None, ...] = (None,) if workers == 1 else STAGES
    memory = {named(stage): held(stage) for stage in stages}
    best = recommended({name: found.resident for name, found in memory.items()}, room.bytes, work.microbatches)
    used = next((stage for stage in stages if named(stage) == best.value), None)
    growths = [2**power for power in range(1, work.microbatches.bit_length() + 1) if 2**power < 2 * work.microbatches]
    growth = max((times for times in growths if best.value != "none" and held(used, times).resident <= SPARE * room.bytes), default=1)
    asked = work.asked_share if way.attention != "padded" else 1.0
    flops = work.tokens * flops_per_token(size, attended=work.attended, mask_share=work.mask_share, asked_share=asked)
    seconds = steps * flops / (workers * pace.peak * pace.share)
    cost = None if price is None else price * workers * (gpus_each or 1) * seconds / _HOUR
    return Estimate(
        parameters=parameters,
        rows=rows,
        steps=steps,
        tokens_per_step=round(work.tokens),
        tokens=round(work.tokens * steps),
        flops_per_step=flops,
        flops=flops * steps,
        microbatches=work.microbatches,
        microbatch_tokens=work.microbatch_tokens,
        microbatch_growth=growth,
        memory=memory,
        room=room,
        stage=best,
        pace=pace,
        seconds=seconds,
        cost=cost,
        price=price,
    )


def named(stage: int | None) -> str:
    """A stage's name in an estimate."""
    return "torch" if stage is None else str(stage)


def recommended(resident: Mapping[str, int], room: int, microbatches: int) -> Choice[str]:
    """The stage that communicates least of those that fit; of equals the one that holds least.

    Volumes are a worker's in a step, in parameters (Rajbhandari et al. 2020, section 7): 0 and 1 reduce the gradient once and hand it, or
    the stepped parameters, back: 2. ZeRO 2 reduces in each of k micro-batches, and gathers once: k + 1. ZeRO 3 gathers twice in each: 3k.
    """
    if "torch" in resident:
        if resident["torch"] <= SPARE * room:
            return Choice("torch", "one worker has nobody to share its states with")
        return Choice("none", "one worker has nobody to share its states with; lower tokens_per_microbatch, or give it more memory")
    volumes = {"0": 2, "1": 2, "2": microbatches + 1, "3": 3 * microbatches}
    fitting = [stage for stage in volumes if resident[stage] <= SPARE * room]
    if not fitting:
        return Choice("none", "no stage fits; lower tokens_per_microbatch, set activation_checkpointing=true, or take more workers")
    best = min(fitting, key=lambda stage: (volumes[stage], resident[stage]))
    again = f"with {microbatches} micro-batches a step " if microbatches > 1 else ""
    others = ", ".join(f"ZeRO {stage}: {volumes[stage]} x" for stage in volumes if stage != best)
    lacking = [stage for stage in volumes if stage not in fitting]
    left_out = f"; ZeRO {', '.join(lacking)} would not fit" if lacking else ""
    return Choice(best, f"{again}it communicates {volumes[best]} x the parameters a step ({others}), and fits{left_out}")
