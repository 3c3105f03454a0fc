"""A pretraining of two ranks or more without Ray, sharded by our engine or replicated by torch's DistributedDataParallel.

Argument: JSON with ``recipe``, ``workers``, ``threads`` (of each rank) and ``stage`` (of ZeRO; null is DistributedDataParallel). The
program is rank 0 and starts the others, which get its requests from it. Only what shares the work differs: model, loss, optimiser, rows and
loop are the same.

Requests: ``steps`` (at most ``count``).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import nn

from benchmarks.programs.train_ours import CPU, Run, some
from benchmarks.programs.turns import conversation
from cluster.ports import free_port
from training.assembly import Assembly
from training.config import PretrainConfig, RunConfig
from training.deepspeed_json import deepspeed_config
from training.engine import WithObjective, clipped
from training.hardware import Hardware, decide
from training.loop import Applied
from training.memory import keep_freed_memory
from training.objectives import Batch, ModelObjective
from training.optimiser_config import OptimiserConfig
from training.optimisers import new_optimiser, set_rates
from training.preparation import prepare


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
    from training.zero import DeepSpeedEngine

    return DeepSpeedEngine(assembly.model, assembly.objective, recipe.optimiser, deepspeed_config(recipe, decisions), device=CPU)


def main(spec: Mapping[str, Any]) -> None:
    """Answer requests until there are no more."""
    rank, workers = int(os.environ.get("RANK", "0")), spec["workers"]
    others: list[subprocess.Popen[bytes]] = []
    if rank == 0:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(workers), "DS_ACCELERATOR": "cpu"}
        os.environ |= {"LOCAL_WORLD_SIZE": str(workers)}
        for other in range(1, workers):
            environment = os.environ | {"RANK": str(other), "LOCAL_RANK": str(other)}
            others.append(subprocess.Popen([sys.executable, *sys.argv], env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr))
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0"}
    requests, answer = conversation() if rank == 0 else (iter(()), lambda found: None)
    torch.set_num_threads(spec["threads"])
    keep_freed_memory()
    torch.distributed.init_process_group("gloo")
    recipe = PretrainConfig.model_validate(spec["recipe"])
    run = Run(recipe, full_rows=True, engine=lambda assembly: engine(spec["stage"], assembly, recipe))
    with closing(run.steps()) as steps:  # type: ignore[type-var]
        while (request := _shared(next(requests, None) if rank == 0 else None)) is not None:
            answer(some(steps, request["count"]))
    for process in others:
        process.wait()


def _shared(request: dict[str, Any] | None) -> dict[str, Any] | None:
    """Rank 0's request, on every rank."""
    box = [request]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
