"""Seconds from a SIGKILL to the next optimiser step, on one clock outside of both sides: of a worker of two, of a node of two; and from the
start of a node until all workers step again.

A MiniLM is fine-tuned on two workers of one thread each. A killed worker is measured against Ray Train with DeepSpeed as their
documentation shows (``programs/recovery_ray_deepspeed.py``), a lost node and its return against the same run of ours under Ray Train's own
elastic policy (``programs/recovery_rays_policy.py``). Sides take turns, each round with processes of its own. The nodes are real Ray nodes
on loopback, which the tests bring along.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.harness import HERE, environment, run, take_turns
from benchmarks.rows import Row, Samples, goal_of, row
from benchmarks.texts import TOKENIZER
from corpus.movie_reviews import fetch, read_archive
from foundation.records import Tail
from foundation.references import resolve

NAME = "recovery"
ROUNDS = 3
SAVE_S, SAVE_STEPS = 3.0, 20
"""Cadence of checkpoints: ours by seconds, the peer's by steps that take about as long."""
DETECTION_S, RESIZE_S, PEERS_START_S = 4.0, 10.0, 10.0
"""Of a dead node; of looking for new ones; and how long Ray's policy waits for resources that are gone, the shortest that starts here."""
ROWS_PER_STEP, LONGEST = 8, 32
STEPS_BEFORE = 15
PATIENCE_S = 300.0
_GOOD_TO_HAVE_S = 3.0  # the peer commits a checkpoint up to two seconds after its report


@dataclass
class Steps:
    """The rows of one side's record as they come: optimiser steps, and which process each rank is."""

    tail: Tail
    process: subprocess.Popen[bytes]
    seen: int = 0
    attempts: int = 0
    world_size: int = 0
    seconds: list[float] = field(default_factory=list)
    """Of each step."""
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    """Their rows."""

    def wait(self, what: str, condition: Callable[[], bool]) -> float:
        """Read until ``condition``; returns the time at which it was seen."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{NAME}: {what}: not within {PATIENCE_S:g} s, or the side ended: {self.process.args!r}")
            for found in self.tail.rows():
                event = found["event"]
                if event == "attempt":
                    self.attempts, self.world_size, self.seen = self.attempts + 1, found["world_size"], 0
                elif event == "step":
                    self.seen += 1
                    self.seconds.append(found.get("seconds", 0.0))
                elif event == "checkpoint":
                    self.checkpoints.append(found)
            time.sleep(0.01)
        return time.monotonic()


def measure(quick: bool) -> list[Row]:
    """Three rows."""
    rounds = 1 if quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="raybert-recovery-") as name:
        scratch = Path(name)
        data = reviews(scratch)
        killed = take_turns({"ours": lambda: ours_killed(scratch, data), "peer": lambda: peer_killed(scratch, data)}, rounds, warmup=0)
        policies = {"ours": "ours", "peer": "ray's"}
        pairs: dict[str, list[tuple[float, float]]] = {side: [] for side in policies}
        for number in range(rounds):
            for side in policies if number % 2 == 0 else reversed(list(policies)):
                pairs[side].append(node_lost(scratch, data, policies[side]))
    lost, returned = ({side: tuple(pair[place] for pair in found) for side, found in pairs.items()} for place in (0, 1))
    model = f"MiniLM, {ROWS_PER_STEP} rows of at most {LONGEST} tokens in a step, a checkpoint each {SAVE_S:g} s"
    elastic = f"{model}. Failure detection {DETECTION_S:g} s, resize interval {RESIZE_S:g} s"
    rays = f"the same run under Ray Train's own policy, start timeout {PEERS_START_S:g} s"
    return [
        compared(
            NAME,
            "worker_killed",
            killed,
            f"{model}; the peer's each {SAVE_STEPS} steps. Peer: Ray Train with DeepSpeed.",
            "recovery_ray_deepspeed",
        ),
        compared(NAME, "node_lost", lost, f"{elastic}. Peer: {rays}.", "recovery_rays_policy"),
        compared(NAME, "node_returned", returned, f"{elastic}. Peer: {rays}.", "recovery_rays_policy"),
    ]


def compared(benchmark: str, name: str, taken: Mapping[str, Sequence[float]], note: str, peer: str) -> Row:
    """A row of figures by side; ``peer`` is the peer's program."""
    return row(
        name,
        Samples(tuple(taken["ours"]), tuple(taken["peer"])),
        goal_of(benchmark, name),
        note=note,
        commands={"ours": "raybert finetune", "peer": f"python benchmarks/programs/{peer}.py"},
        threads={"ours": 1, "peer": 1},
        peer_versions={package: metadata.version(package) for package in ("ray", "deepspeed")},
    )


def reviews(folder: Path) -> Path:
    """Labelled rows, for both sides."""
    import pyarrow.csv

    table = read_archive(fetch())
    pyarrow.csv.write_csv(table.select(["text", "label"]), folder / "reviews.csv")
    return folder / "reviews.csv"


def recipe(data: Path, every_s: float = SAVE_S) -> list[str]:
    """Ours, as overrides, with a checkpoint each ``every_s``."""
    told = [f"data.train={data}", f"encoder={TOKENIZER}", f"rows_per_step={ROWS_PER_STEP}", f"max_length={LONGEST}", "epochs=100"]
    told += [f"checkpoint.every_s={every_s}", "checkpoint.every_steps=1000000", "record_rows=true", "workers.max_failures=100"]
    return told


def ours_killed(scratch: Path, data: Path) -> float:
    """From the kill of rank 1 to the next step, on a private Ray."""
    home = Path(tempfile.mkdtemp(dir=scratch))
    command = [sys.executable, "-m", "raybert", "finetune", "--name", "r", *recipe(data), "workers.count=2", "workers.cpus_each=1"]
    folder = home / "runs" / "r"
    with side(command, home) as process:
        steps = Steps(Tail(folder / "metrics.jsonl"), process)
        _warm(steps)
        return _kill(steps, _rank_1(folder))


def peer_killed(scratch: Path, data: Path) -> float:
    """The same of the peer."""
    home = Path(tempfile.mkdtemp(dir=scratch))
    with side(peers_command(home, data, SAVE_STEPS), home) as process:
        steps = Steps(Tail(home / "steps.jsonl"), process)
        _warm(steps)
        return _kill(steps, int((home / "rank-1").read_text(encoding="utf-8")))


def peers_command(home: Path, data: Path, every: int) -> list[str]:
    """The peer's, with a checkpoint each ``every`` steps."""
    spec = {"data": str(data), "encoder": resolve(TOKENIZER).location, "folder": str(home), "every": every}
    spec |= {"rows": ROWS_PER_STEP, "longest": LONGEST}
    return [sys.executable, str(HERE / "programs" / "recovery_ray_deepspeed.py"), json.dumps(spec)]


def node_lost(scratch: Path, data: Path, policy: str) -> tuple[float, float]:
    """From the kill of a node's raylet to the next step, and from the start of another node to a step of both workers."""
    from tests.support.nodes import nodes

    home = Path(tempfile.mkdtemp(dir=scratch))
    with nodes(home, failure_detection_s=DETECTION_S) as cluster:
        cluster.add()
        lost = cluster.add()
        with side(elastic(cluster.address, data, policy), home, cluster.env) as process:
            steps = Steps(Tail(home / "runs" / "r" / "metrics.jsonl"), process)
            _warm(steps)
            made, began = steps.attempts, time.monotonic()
            cluster.lose(lost)
            down = steps.wait("a step without the node", lambda: steps.attempts > made and steps.seen > 0) - began
            steps.wait("steps without the node", lambda: steps.seen >= STEPS_BEFORE)
            began = time.monotonic()
            cluster.add()
            up = steps.wait("a step of both workers", lambda: steps.world_size == 2 and steps.seen > 0) - began
    return down, up


def elastic(address: str, data: Path, policy: str, every_s: float = SAVE_S) -> list[str]:
    """A run of one worker or two on a cluster, under our policy (``ours``) or Ray Train's."""
    front = ["-m", "raybert"] if policy == "ours" else [str(HERE / "programs" / "recovery_rays_policy.py")]
    gang = ["workers.min=1", "workers.max=2", "workers.cpus_each=1", f"workers.resize_interval_s={RESIZE_S}"]
    gang += [] if policy == "ours" else [f"workers.start_timeout_s={PEERS_START_S}"]
    return [sys.executable, *front, "finetune", "--name", "r", "--address", address, *recipe(data, every_s), *gang]


def _warm(steps: Steps) -> None:
    """Until there are steps and a committed checkpoint."""
    steps.wait("steps", lambda: steps.seen >= STEPS_BEFORE and bool(steps.checkpoints))
    then = time.monotonic() + _GOOD_TO_HAVE_S
    steps.wait("a committed checkpoint", lambda: time.monotonic() > then)


def _kill(steps: Steps, pid: int) -> float:
    made, began = steps.attempts, time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return steps.wait("a step after the kill", lambda: steps.attempts > made and steps.seen > 0) - began


def _rank_1(folder: Path) -> int:
    (file,) = folder.glob("applied/*-rank-1.jsonl")
    return int(json.loads(file.read_text(encoding="utf-8").splitlines()[0])["pid"])


@contextlib.contextmanager
def side(command: list[str], home: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A side with a home of its own; it is interrupted at the end, and killed if that does not help."""
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**environment(1), **(env or {}), "RAYBERT_HOME": str(home), "DS_ACCELERATOR": "cpu"},
        )
        try:
            yield process
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{(home / 'log').read_text(encoding='utf-8')[-3000:]}") from None
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


if __name__ == "__main__":
    sys.exit(run(NAME, measure))
