"""Tokens per second of two workers whose states are sharded by ZeRO, against torch's DistributedDataParallel, which shards nothing.

4 layers × 512, 16 rows of 128 tokens a worker and step, no accumulation, one thread each; everything but the engine is the same
(``programs/train_sharded.py``). All sides live at once and step in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from importlib import metadata
from pathlib import Path

from benchmarks.harness import HERE, run, take_turns
from benchmarks.pretrain_throughput import Data, prepare, rate
from benchmarks.rows import Row, Samples, goal_of, row
from benchmarks.texts import MASK_SHARE, TOKENIZER
from benchmarks.turns import NEVER, Side

NAME = "sharding_cost"
WORKERS = 2
ROWS_EACH = 16
ROUNDS, STEPS, WARMUP_STEPS = 8, 4, 2
QUICK_ROUNDS, QUICK_STEPS = 5, 2
STAGES = {f"zero_{stage}": stage for stage in (1, 2, 3)}
PEER = "replicated"


def measure(quick: bool, *, corpus: Path | None = None, layers: int = 4, hidden: int = 512, threads: int | None = None) -> list[Row]:
    """A row for each stage."""
    each = threads or max(1, len(os.sched_getaffinity(0)) // WORKERS)
    rounds, steps = (QUICK_ROUNDS, QUICK_STEPS) if quick else (ROUNDS, STEPS)
    with tempfile.TemporaryDirectory() as scratch:
        data = prepare(corpus, Path(scratch), TOKENIZER)
        commands = {name: command(data, layers, hidden, stage, each) for name, stage in {PEER: None, **STAGES}.items()}
        with ExitStack() as stack:
            sides = {name: stack.enter_context(Side(argv, threads=each)) for name, argv in commands.items()}
            for side in sides.values():
                rate(side, WARMUP_STEPS)
            found = take_turns({name: partial(rate, side, steps) for name, side in sides.items()}, rounds, warmup=1)
    return [
        row(
            name,
            Samples(found[name], found[PEER]),
            goal_of(NAME, name),
            note=(
                f"{layers} layers × {hidden}, vocabulary 30,522, {ROWS_EACH} rows of 128 tokens a worker, mask {MASK_SHARE:g}, {WORKERS} "
                f"workers on gloo, fp32; each figure is {steps} steps. The peer takes gradients as views of its buckets. Data: {data.told}."
            ),
            commands={"ours": " ".join(commands[name][:2]), "peer": " ".join(commands[PEER][:2])},
            threads={"ours": each, "peer": each},
            peer_versions={package: metadata.version(package) for package in ("torch", "deepspeed")},
        )
        for name in STAGES
    ]


def command(data: Data, layers: int, hidden: int, stage: int | None, threads: int) -> list[str]:
    """Of one side."""
    recipe = {
        "data": str(data.packed),
        "new_model": {"layers": layers, "hidden": hidden},
        "rows_per_step": WORKERS * ROWS_EACH,
        "tokens_per_microbatch": ROWS_EACH * 128,
        "steps": NEVER,
        "mask_share": MASK_SHARE,
        "schedule": {"peak_lr": 1e-4, "decay": "constant"},
        "workers": {"count": WORKERS},
        "sharding": {"zero_stage": stage or 0},
    }
    spec = {"recipe": recipe, "workers": WORKERS, "threads": threads, "stage": stage}
    return [sys.executable, str(HERE / "programs" / "train_sharded.py"), json.dumps(spec)]


def options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark."""
    parser.add_argument("--corpus", type=Path, metavar="FILE", help="Parquet with text and split; default: movie reviews")


if __name__ == "__main__":
    sys.exit(run(NAME, measure, options=options))
