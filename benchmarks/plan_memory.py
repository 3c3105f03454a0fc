"""What ``raybert plan`` says that a worker holds, against what a process held: its peak less what it held before its model was built.

Two workers at each ZeRO stage, 16 rows of 128 tokens each, eight steps and a checkpoint's copy, of two sizes of model. The figure is the
plan's bytes in per cent of those.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.harness import environment, run
from benchmarks.pretrain_throughput import Data, prepare
from benchmarks.rows import Row, Samples, goal_of, row
from benchmarks.sharding_cost import WORKERS, command, options
from benchmarks.texts import TOKENIZER
from benchmarks.turns import Side

NAME = "plan_memory"
SIZES = {"4x256": (4, 256), "4x512": (4, 512)}
STEPS = 8
ROUNDS = 3


def measure(quick: bool, *, corpus: Path | None = None) -> list[Row]:
    """A row for each stage and size; the quick form has the smaller one, once."""
    sizes = dict([*SIZES.items()][:1]) if quick else SIZES
    with tempfile.TemporaryDirectory() as scratch:
        data = prepare(corpus, Path(scratch), TOKENIZER)
        rows = []
        for size, (layers, hidden) in sizes.items():
            planned: dict[str, Any] = {}
            for stage in range(4):
                argv = command(data, layers, hidden, stage, 1)
                planned = planned or plan(json.loads(argv[-1])["recipe"], Path(scratch))
                found = [_held(argv) for _ in range(1 if quick else ROUNDS)]
                rows.append(_row(f"{size}_zero_{stage}", planned[str(stage)]["resident"], found, data, argv))
    return rows


def plan(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The plan's memory by stage."""
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    argv = [sys.executable, "-m", "raybert", "plan", "-c", str(folder / "recipe.yaml"), "--peak-tflops", "0.1", "--json"]
    done = subprocess.run(argv, env=environment(1), capture_output=True, text=True, check=True)
    memory: dict[str, Any] = json.loads(done.stdout)["memory"]
    return memory


def _held(argv: list[str]) -> int:
    with Side(argv, threads=1) as side:
        side.ask({"do": "steps", "count": STEPS})
        return int(side.ask({"do": "held"})["bytes"])


def _row(name: str, planned: int, held: list[int], data: Data, argv: list[str]) -> Row:
    told = ", ".join(f"{figure / 1e6:,.0f}" for figure in held)
    return row(
        name,
        Samples(tuple(100 * planned / figure for figure in held), (100.0,) * len(held)),
        goal_of(NAME, name),
        note=f"Planned {planned / 1e6:,.0f} MB, held {told} MB. {WORKERS} workers, 2,048 tokens each. Data: {data.told}.",
        commands={"ours": "raybert plan", "peer": " ".join(argv[:2])},
        threads={"ours": 1, "peer": 1},
        peer_versions={package: metadata.version(package) for package in ("torch", "deepspeed")},
    )


if __name__ == "__main__":
    sys.exit(run(NAME, measure, options=options))
