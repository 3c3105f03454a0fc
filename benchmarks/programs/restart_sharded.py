"""Ranks that write checkpoints, or begin from them: in our form, and in DeepSpeed's own, converted to its universal one.

Argument: JSON with ``layers``, ``hidden``, ``stage``, ``folder``, ``workers``, ``threads``. Requests: ``write`` (a step, then both forms),
``ours`` and ``universal`` (begin from them), each answered with the ``seconds`` between two barriers. The model is built before.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from benchmarks.programs.ranks import gang
from benchmarks.programs.train_ours import CPU
from tests.support.plain_deepspeed import convert
from training.checkpoint import Checkpoint, Progress, write_manifest
from training.config import PretrainConfig
from training.deepspeed_json import deepspeed_config
from training.hardware import Hardware, decide
from training.ranks import gathered
from training.zero import DeepSpeedEngine


class Touching:
    """A loss in which every parameter has a part, so that a step gives each its moments."""

    def loss_sum(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Half the sum of squares."""
        return torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum() / 2


def model_of(spec: Mapping[str, Any]) -> nn.Module:
    """A BERT with its head for masked words."""
    hidden = spec["hidden"]
    config = BertConfig(
        num_hidden_layers=spec["layers"], hidden_size=hidden, intermediate_size=4 * hidden, num_attention_heads=hidden // 32
    )
    torch.manual_seed(0)
    model: nn.Module = BertForMaskedLM(config)
    return model


def engine_of(
    spec: Mapping[str, Any], model: nn.Module, checkpoint: Checkpoint | None = None, *, is_universal: bool = False
) -> DeepSpeedEngine:
    """As a run makes it."""
    tree = {"data": "unread", "steps": 1, "workers": {"count": spec["workers"]}, "sharding": {"zero_stage": spec["stage"]}}
    recipe = PretrainConfig.model_validate(tree)
    rendered = deepspeed_config(recipe, decide(Hardware(), recipe))
    if is_universal:
        rendered |= {"checkpoint": {"load_universal": True}}
    objective: Any = Touching()
    return DeepSpeedEngine(model, objective, recipe.optimiser, rendered, device=CPU, checkpoint=checkpoint)


def write(spec: Mapping[str, Any], folder: Path) -> None:
    """A step, then both forms."""
    engine = engine_of(spec, model_of(spec))
    engine.accumulate({}, scale=1e-3)
    engine.apply(learning_rate=1e-4)
    everyone = gathered(engine.save(folder / "ours"), engine.world_size)
    if engine.rank == 0:
        files = {name: entry for entries in everyone for name, entry in entries.items()}
        write_manifest(folder / "ours", Progress(1, 1), files, engine.shapes(), {})
    engine._engine.save_checkpoint(str(folder / "theirs"), tag="step")


def begin_from_ours(spec: Mapping[str, Any], folder: Path, model: nn.Module) -> None:
    """Rank 0 compares the hashes, as in a run."""
    is_first = torch.distributed.get_rank() == 0
    if is_first:
        Checkpoint.open(folder / "ours")
    torch.distributed.barrier()
    engine_of(spec, model, Checkpoint.open(folder / "ours", is_verified=True))


def begin_from_theirs(spec: Mapping[str, Any], folder: Path, model: nn.Module) -> None:
    """Rank 0 converts, then all load what came of it."""
    if torch.distributed.get_rank() == 0:
        shutil.rmtree(folder / "universal", ignore_errors=True)
        convert(folder / "theirs" / "step", folder / "universal" / "step", processes=len(os.sched_getaffinity(0)))
    torch.distributed.barrier()
    engine = engine_of(spec, model, is_universal=True)
    engine._engine.load_checkpoint(str(folder / "universal"))


WAYS = {"ours": begin_from_ours, "universal": begin_from_theirs}


def main(spec: Mapping[str, Any]) -> None:
    """Answer requests until there are no more."""
    folder = Path(spec["folder"])
    with gang(spec["workers"], spec["threads"]) as (requests, answer):
        for request in requests:
            if request["do"] == "write":
                write(spec, folder)
                torch.distributed.barrier()
                answer({"parameters": sum(parameter.numel() for parameter in model_of(spec).parameters())})
                continue
            model = model_of(spec)
            torch.distributed.barrier()
            began = time.perf_counter()
            WAYS[request["do"]](spec, folder, model)
            torch.distributed.barrier()
            answer({"seconds": time.perf_counter() - began})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
