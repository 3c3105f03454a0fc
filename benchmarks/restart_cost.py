"""Seconds to begin from a checkpoint with another number of workers: our form, and DeepSpeed's by way of its universal one.

ZeRO-2, written by two workers, begun with three, a thread each; from the moment when each has its model until all have an engine with the
state in it. Ours is read as it is, its hashes compared; the peer's is converted by DeepSpeed's own script, in a process that has DeepSpeed
imported already, and then loaded.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from importlib import metadata
from pathlib import Path

from benchmarks.harness import HERE, run, take_turns
from benchmarks.rows import Row, Samples, goal_of, row
from benchmarks.turns import Side

NAME = "restart_cost"
SIZES = {"parameters_22m": (6, 384), "parameters_110m": (12, 768)}
"""Layers and hidden size, with a vocabulary of 30,522."""
WRITERS, READERS = 2, 3
ROUNDS, QUICK_ROUNDS = 5, 3


def measure(quick: bool) -> list[Row]:
    """A row for each size."""
    return [_row(name, layers, hidden, QUICK_ROUNDS if quick else ROUNDS) for name, (layers, hidden) in SIZES.items()]


def _row(name: str, layers: int, hidden: int, rounds: int) -> Row:
    with tempfile.TemporaryDirectory(prefix="raybert-restart-") as folder:
        with Side(command(Path(folder), layers, hidden, WRITERS), threads=1) as side:
            parameters = side.ask({"do": "write"})["parameters"]

        def seconds(way: str) -> float:
            # Processes of their own, as after a restart; an engine that was there before would also keep its memory.
            with Side(command(Path(folder), layers, hidden, READERS), threads=1) as side:
                return float(side.ask({"do": way})["seconds"])

        found = take_turns({way: partial(seconds, way) for way in ("ours", "universal")}, rounds, warmup=0)
    shown = f"python benchmarks/programs/restart_sharded.py  # {layers} layers × {hidden}"
    return row(
        name,
        Samples(found["ours"], found["universal"]),
        goal_of(NAME, name),
        note=f"{parameters / 1e6:.1f} million parameters with two moments, ZeRO-2, written by {WRITERS} workers, begun with {READERS}.",
        commands={"ours": shown, "peer": shown},
        threads={"ours": 1, "peer": 1},
        peer_versions={"deepspeed": metadata.version("deepspeed")},
    )


def command(folder: Path, layers: int, hidden: int, workers: int) -> list[str]:
    """Of a gang."""
    spec = {"layers": layers, "hidden": hidden, "stage": 2, "folder": str(folder), "workers": workers, "threads": 1}
    return [sys.executable, str(HERE / "programs" / "restart_sharded.py"), json.dumps(spec)]


if __name__ == "__main__":
    sys.exit(run(NAME, measure))
