"""The clock of ``recovery``: what it takes for a step of a new attempt, and for a side that has ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import recovery
from benchmarks.recovery import Steps
from foundation.records import Recorder, Tail


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A side that lives until it is told to end."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as side:
        yield side


def test_only_a_step_of_a_new_attempt_is_one_after_the_kill(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    record = Recorder(tmp_path / "metrics.jsonl")
    steps = Steps(Tail(tmp_path / "metrics.jsonl"), process)
    record.write("attempt", world_size=2)
    record.write("step")
    record.write("step")
    record.write("checkpoint")
    steps.wait("steps", lambda: steps.seen == 2 and bool(steps.checkpoints))
    assert (steps.attempts, steps.world_size) == (1, 2)
    record.write("attempt", world_size=1)
    steps.wait("an attempt", lambda: steps.attempts == 2)
    assert steps.seen == 0
    record.write("step")
    steps.wait("a step", lambda: steps.seen > 0)
    assert steps.world_size == 1


def test_a_side_that_ends_instead_is_told(tmp_path: Path, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(Tail(tmp_path / "none"), process)
    monkeypatch.setattr(recovery, "PATIENCE_S", 0.05)
    with pytest.raises(RuntimeError, match="recovery: a step: not within"):
        steps.wait("a step", lambda: False)
    process.communicate(b"\n")
    with pytest.raises(RuntimeError, match="the side ended"):
        steps.wait("a step", lambda: False)
