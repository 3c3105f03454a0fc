"""Goodput of an elastic run of which a node is taken away every five minutes, announced thirty seconds ahead, and another comes for it.

A MiniLM (22.7 million parameters) is fine-tuned on two nodes with one worker each, a checkpoint a minute; the peer is the same run under
Ray Train's own elastic policy. One side runs after the other, each on a cluster of its own: real Ray nodes on loopback, which the tests
bring along. The quick form looks at less time around one such notice, and puts what it cost against five minutes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.harness import run
from benchmarks.recovery import DETECTION_S, PEERS_START_S, Steps, compared, elastic, reviews, side
from benchmarks.rows import Row
from foundation.records import Tail, read_rows
from training.goodput import goodput

NAME = "preemption"
EVERY_S, NOTICE_S = 300.0, 30.0
QUICK_S = 70.0
WINDOWS = 3
SAVE_S = 60.0
STEPS_BEFORE = 10


def measure(quick: bool) -> list[Row]:
    """One row."""
    told: dict[str, list[str]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory(prefix="raybert-preemption-") as name:
        scratch = Path(name)
        data = reviews(scratch)
        shares = {name: one_run(scratch, data, name, quick, told[name]) for name in told}
    length = f"{QUICK_S:g} s around one notice, its cost put against {EVERY_S:g} s" if quick else f"{WINDOWS} times {EVERY_S:g} s"
    note = (
        f"MiniLM on two nodes, a checkpoint each {SAVE_S:g} s, {length}; a node comes when the other goes. Steps done again: ours "
        f"{', '.join(told['ours'])}; the peer's, under Ray Train's own policy with a start timeout of {PEERS_START_S:g} s, "
        f"{', '.join(told['peer'])}."
    )
    return [compared(NAME, "goodput", shares, note, "recovery_rays_policy")]


def one_run(scratch: Path, data: Path, name: str, quick: bool, told: list[str]) -> tuple[float, ...]:
    """Goodput in per cent of each time between two notices; ``told`` gets how many steps were done again."""
    from tests.support.nodes import nodes

    home = Path(tempfile.mkdtemp(dir=scratch))
    record = home / "runs" / "r" / "metrics.jsonl"
    with nodes(home, failure_detection_s=DETECTION_S) as cluster:
        raylets = [cluster.add(), cluster.add()]
        with side(elastic(cluster.address, data, name, SAVE_S), home, cluster.env) as process:
            steps = Steps(Tail(record), process)
            steps.wait("steps of both workers", lambda: steps.world_size == 2 and steps.seen >= STEPS_BEFORE)
            begins = [time.time()]
            for _ in range(1 if quick else WINDOWS):
                going = raylets.pop(0)
                cluster.drain(going, NOTICE_S)
                _let_pass(steps, NOTICE_S)
                cluster.lose(going)
                raylets.append(cluster.add())
                _let_pass(steps, (QUICK_S if quick else EVERY_S) - NOTICE_S)
                begins.append(time.time())
    rows = [*read_rows(record)]
    told.append(str(done_again(rows, begins[0], begins[-1])))
    shares = [share(rows, begin, end) for begin, end in pairwise(begins)]
    return tuple(100 * (1 - (1 - found) * QUICK_S / EVERY_S) for found in shares) if quick else tuple(100 * found for found in shares)


def share(rows: list[dict[str, Any]], begin: float, end: float) -> float:
    """Goodput of the time between two moments (Unix seconds) of a run that had begun before."""
    attempt = [row for row in rows if row["event"] == "attempt" and row["time"] <= begin][-1]
    before = [row["step"] + 1 for row in rows if row["event"] == "step" and row["time"] <= begin]
    entered = attempt | {"time": begin, "step": before[-1]}
    return goodput([entered, *(row for row in rows if begin < row["time"] <= end)], started=begin, ended=end).share


def done_again(rows: list[dict[str, Any]], begin: float, end: float) -> int:
    """Steps that attempts between two moments began with although they had been done."""
    again, done = 0, 0
    for row in rows:
        if row["event"] == "step":
            done = row["step"] + 1
        elif row["event"] == "attempt" and begin < row["time"] <= end:
            again += max(0, done - row["step"])
    return again


def _let_pass(steps: Steps, seconds: float) -> None:
    then = time.monotonic() + seconds
    steps.wait("time to pass", lambda: time.monotonic() > then)


if __name__ == "__main__":
    sys.exit(run(NAME, measure))
