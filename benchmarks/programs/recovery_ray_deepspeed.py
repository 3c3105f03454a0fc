"""The peer of ``recovery``: fine-tuning with Ray Train and DeepSpeed ZeRO-2 as their documentation shows it, checkpoints each few steps.

Argument: JSON with ``data`` (CSV), ``encoder`` (folder), ``folder`` (where it writes), ``every``, ``rows``, ``longest``. Rank 0 appends a
row a step to ``steps.jsonl``, in the form of ours; each rank leaves its process id.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WORKERS = 2


def train(spec: dict[str, Any]) -> None:
    """What each worker runs."""
    import deepspeed
    import torch
    from ray import train as ray_train
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(1)
    rank, folder = ray_train.get_context().get_world_rank(), Path(spec["folder"])
    (folder / f"rank-{rank}").write_text(str(os.getpid()), encoding="utf-8")
    with open(spec["data"], encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(spec["encoder"])
    model = AutoModelForSequenceClassification.from_pretrained(spec["encoder"], num_labels=len(names))
    each = spec["rows"] // WORKERS
    config = {
        "train_micro_batch_size_per_gpu": each,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "torch_adam": True}},
        "zero_optimization": {"stage": 2},
    }
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    checkpoint = ray_train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as held:
            engine.load_checkpoint(held)
    record = (folder / "steps.jsonl").open("a", encoding="utf-8") if rank == 0 else None

    def tell(event: str, **values: Any) -> None:
        if record is not None:
            record.write(json.dumps({"event": event, "time": time.time(), **values}) + "\n")
            record.flush()

    tell("attempt", world_size=WORKERS)
    while True:
        step = engine.global_steps
        at = (step * spec["rows"] + rank * each) % (len(rows) - spec["rows"])
        part = rows[at : at + each]
        batch = tokenizer([row["text"] for row in part], truncation=True, max_length=spec["longest"], padding=True, return_tensors="pt")
        loss = engine(**batch, labels=torch.tensor([names.index(row["label"]) for row in part])).loss
        engine.backward(loss)
        engine.step()
        tell("step", step=step)
        if (step + 1) % spec["every"] == 0:
            began = time.perf_counter()
            with tempfile.TemporaryDirectory() as held:
                engine.save_checkpoint(held)
                torch.distributed.barrier()
                ray_train.report({"loss": float(loss)}, checkpoint=ray_train.Checkpoint.from_directory(held))
            tell("checkpoint", step=step, checkpoint_seconds=time.perf_counter() - began)


def main(spec: dict[str, Any]) -> None:
    """Run until interrupted."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    ray.init("local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    TorchTrainer(
        train,
        train_loop_config=spec,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=RunConfig(name="peer", storage_path=spec["folder"], failure_config=FailureConfig(max_failures=3)),
    ).fit()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
