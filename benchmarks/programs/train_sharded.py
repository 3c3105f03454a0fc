"""A pretraining of two ranks or more without Ray, sharded by our engine or replicated by torch's DistributedDataParallel.

Argument: JSON with ``recipe``, ``workers``, ``threads`` (of each rank) and ``stage`` (of ZeRO; null is DistributedDataParallel). Only what
shares the work differs: model, loss, optimiser, rows and loop are the same.

Requests: ``steps`` (at most ``count``), ``held`` (bytes of the rank that holds most, a checkpoint's copy among them).
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.programs.ranks import gang
from benchmarks.programs.train_ours import CPU, Run, some
from training.assembly import Assembly
from training.config import PretrainConfig, RunConfig
from training.deepspeed_json import deepspeed_config
from training.engine import WithObjective, clipped
from training.hardware import Hardware, decide
from training.loop import Applied
from training.measuring import memory
from training.objectives import Batch, ModelObjective
from training.optimiser_config import OptimiserConfig
from training.optimisers import new_optimiser, set_rates
from training.preparation import prepare
from training.ranks import gathered
from training.saving import Writer
from training.zero import DeepSpeedEngine, lean_deepspeed


class Replicated:
    """What the loop calls of an engine, as torch's documentation has it: DistributedDataParallel, its gradients views of its buckets."""

    def __init__(self, model: nn.Module, objective: ModelObjective, config: OptimiserConfig) -> None:
        self.rank, self.world_size, self.device = torch.distributed.get_rank(), torch.distributed.get_world_size(), CPU
        self._model, self._config = model, config
        self._wrapped = nn.parallel.DistributedDataParallel(WithObjective(model, objective), gradient_as_bucket_view=True)
        self._optimiser = new_optimiser(model, config)

    def accumulate(self, batch: Batch, *, scale: float) -> float:
        """DistributedDataParallel takes the mean over ranks, so the sum is scaled up by their number."""
        self._model.train()
        loss = self._wrapped(batch) * (scale * self.world_size)
        loss.backward()
        return float(loss.detach()) / self.world_size

    def apply(self, *, learning_rate: float) -> Applied:
        """Clip, step, clear."""
        norm = clipped(self._model.parameters(), self._config.clip_norm)
        set_rates(self._optimiser, learning_rate)
        self._optimiser.step()
        self.discard()
        return Applied(is_applied=math.isfinite(norm), grad_norm=norm)

    def discard(self) -> None:
        """Clear the gradient."""
        self._optimiser.zero_grad(set_to_none=True)

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks."""
        tensor = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(tensor)
        return list(tensor.tolist())


def engine(stage: int | None, assembly: Assembly, recipe: RunConfig) -> Any:
    """Of one rank."""
    decisions = decide(Hardware(), recipe)
    prepare(assembly.model, recipe, decisions)
    if stage is None:
        return Replicated(assembly.model, assembly.objective, recipe.optimiser)
    return DeepSpeedEngine(assembly.model, assembly.objective, recipe.optimiser, deepspeed_config(recipe, decisions), device=CPU)


def held(before: int, engine: Any) -> dict[str, int]:
    """Of the rank that holds most: bytes of this process at its peak, less those before the model was built, with a checkpoint's copy."""
    writer = Writer(engine.rank, CPU)
    with tempfile.TemporaryDirectory() as folder:
        writer.begin(Path(folder), engine.fragments())
        writer.finish()
    return {"bytes": max(gathered(peak_bytes() - before, engine.world_size))}


def peak_bytes() -> int:
    """The most that this process has held."""
    (line,) = (line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def main(spec: Mapping[str, Any]) -> None:
    """Answer requests until there are no more."""
    recipe, engines = PretrainConfig.model_validate(spec["recipe"]), []
    with gang(spec["workers"], spec["threads"]) as (requests, answer):
        lean_deepspeed()  # its code is not what a model holds
        before = memory(CPU)["memory_bytes"]

        def made(assembly: Assembly) -> Any:
            engines.append(engine(spec["stage"], assembly, recipe))
            return engines[0]

        run = Run(recipe, full_rows=True, engine=made)
        with closing(run.steps()) as steps:  # type: ignore[type-var]
            for request in requests:
                answer(some(steps, request["count"]) if request["do"] == "steps" else dict(held(before, engines[0])))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
