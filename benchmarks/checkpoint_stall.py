"""For what share of the time steps stand still for checkpoints, one each ten and each sixty seconds.

A MiniLM is fine-tuned on two workers of one thread each, ZeRO-2: 22.7 million parameters, 272 MB a checkpoint. Ours copies and goes on,
and writes beside the steps; the peer, Ray Train with DeepSpeed as their documentation shows it, saves and reports between two steps. The
figure is the median time that rank 0's steps stood still for one checkpoint, over the time between two.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import run, take_turns
from benchmarks.recovery import Steps, compared, peers_command, recipe, reviews, side
from benchmarks.rows import Row
from foundation.records import Tail

NAME = "checkpoint_stall"
ROUNDS = 3
CHECKPOINTS = 4
"""Of each side in a round; the first is left out, for which memory is taken."""
CADENCE_S = 10.0
PEERS_STEPS = 25
"""Between two checkpoints of the peer."""
ROWS = {"each_10s": 10.0, "each_60s": 60.0}


def measure(quick: bool) -> list[Row]:
    """Both rows, of the same checkpoints."""
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="raybert-stall-") as name:
        scratch = Path(name)
        data = reviews(scratch)
        taken = take_turns(
            {"ours": lambda: ours(scratch, data, notes), "peer": lambda: peer(scratch, data)}, 1 if quick else ROUNDS, warmup=0
        )
    told = f"MiniLM, ZeRO-2, two workers, {CHECKPOINTS - 1} checkpoints a round. Ours: {'; '.join(notes)}. Peer: Ray Train with DeepSpeed."
    shares = {
        name: {side: [100 * stalled / cadence for stalled in found] for side, found in taken.items()} for name, cadence in ROWS.items()
    }
    return [compared(NAME, name, share, told, "recovery_ray_deepspeed") for name, share in shares.items()]


def ours(scratch: Path, data: Path, notes: list[str]) -> float:
    """Seconds for which a checkpoint holds the steps up."""
    home = Path(tempfile.mkdtemp(dir=scratch))
    gang = ["workers.count=2", "workers.cpus_each=1", "sharding.zero_stage=2"]
    command = [sys.executable, "-m", "raybert", "finetune", "--name", "r", *recipe(data, CADENCE_S), *gang]
    with side(command, home) as process:
        steps = Steps(Tail(home / "runs" / "r" / "metrics.jsonl"), process)
        steps.wait("checkpoints", lambda: len(steps.checkpoints) >= CHECKPOINTS)
    written = _median(steps.checkpoints, "written_seconds")
    notes.append(f"written in {written:.2f} s beside the steps, of {statistics.median(steps.seconds):.3f} s each")
    return _median(steps.checkpoints, "checkpoint_seconds")


def peer(scratch: Path, data: Path) -> float:
    """The same of the peer."""
    home = Path(tempfile.mkdtemp(dir=scratch))
    with side(peers_command(home, data, PEERS_STEPS), home) as process:
        steps = Steps(Tail(home / "steps.jsonl"), process)
        steps.wait("checkpoints", lambda: len(steps.checkpoints) >= CHECKPOINTS)
    return _median(steps.checkpoints, "checkpoint_seconds")


def _median(checkpoints: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(found[key] for found in checkpoints[1:CHECKPOINTS]))


if __name__ == "__main__":
    sys.exit(run(NAME, measure))
