"""Training with DeepSpeed alone, as its documentation shows it: a model, batches and a loop that know nothing of raybert."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

ROWS, WORDS, LENGTH, HIDDEN = 6, 29, 7, 10


def run_plain(task: dict[str, Any], rank: int, world_size: int) -> dict[str, Any]:
    """Train up to ``task["steps"]`` at ZeRO ``task["stage"]``, the optimiser's parameters in ``task["groups"]``; returns ``losses`` and
    ``global_steps``.

    ``load``: a folder with universal checkpoints, of which the latest is loaded. ``save``: a folder that gets a checkpoint, and in
    ``universal`` its conversion by DeepSpeed's own script.
    """
    import deepspeed
    import torch

    model = make_model()
    groups = [{"params": [*model.parameters()], "weight_decay": 0.1}]
    if task["groups"] == 2:
        decayed, others = ([parameter for parameter in model.parameters() if (parameter.ndim > 1) is want] for want in (True, False))
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    config = {
        "train_micro_batch_size_per_gpu": ROWS // world_size,
        "zero_optimization": {"stage": task["stage"]},
        "zero_allow_untested_optimizer": True,
        "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 3e-3, "warmup_num_steps": 4, "warmup_type": "linear"}},
        "checkpoint": {"load_universal": "load" in task},
    }
    optimiser = torch.optim.AdamW(groups, lr=3e-3)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimiser, config=config)
    if "load" in task:
        engine.load_checkpoint(task["load"])
        engine.lr_scheduler.step(engine.lr_scheduler.last_batch_iteration)  # otherwise the first step has a new run's rate
    losses = []
    while engine.global_steps < task["steps"]:
        words = batch(engine.global_steps)[rank::world_size]
        loss = engine(words)
        engine.backward(loss)
        engine.step()
        total = loss.detach().clone()
        torch.distributed.all_reduce(total)
        losses.append(float(total) / world_size)
    if "save" in task:
        engine.save_checkpoint(task["save"])
        torch.distributed.barrier()
        if rank == 0:
            tag = Path(task["save"], "latest").read_text(encoding="utf-8")
            convert(Path(task["save"], tag), Path(task["save"], "universal", tag))
        torch.distributed.barrier()
    return {"losses": losses, "global_steps": engine.global_steps}


def convert(source: Path, target: Path, *, processes: int = 1) -> None:
    """Write a checkpoint of DeepSpeed's own in the universal form, as its script does."""
    from deepspeed.checkpoint.ds_to_universal import main

    paths = {"input_folder": str(source), "output_folder": str(target)}
    each = {"num_extract_workers": processes, "num_merge_workers": processes}
    main(Namespace(**paths, **each, keep_temp_folder=False, inject_missing_state=True, strict=True))


def make_model() -> Any:
    """Predicts each word from itself and the mean of its row, with a tied decoder."""
    import torch
    from torch import nn

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(WORDS, HIDDEN)
            self.layers = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(3))
            self.norm = nn.LayerNorm(HIDDEN)
            self.decoder = nn.Linear(HIDDEN, WORDS)
            self.decoder.weight = self.words.weight

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            hidden = self.words(words)
            for layer in self.layers:
                hidden = hidden + torch.tanh(layer(hidden + hidden.mean(1, keepdim=True)))
            logits = self.decoder(self.norm(hidden))
            return nn.functional.cross_entropy(logits.flatten(0, 1), words.roll(1, 1).flatten())

    torch.manual_seed(5)
    return Plain()


def batch(step: int) -> Any:
    """Of a step, over all ranks."""
    import torch

    return torch.randint(WORDS, (ROWS, LENGTH), generator=torch.Generator().manual_seed(step))
