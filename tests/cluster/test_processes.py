"""What a private Ray leaves is ended by the mark that it inherited, whatever became of its parents; nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from cluster.processes import MARK, ended_behind
from tests.conftest import end_group, wait_for

# Says its number, and that of a child in a session of its own whose environment is another; asked to end, it does not.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={}, start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


@contextmanager
def started(mark: str) -> Iterator[list[psutil.Process]]:
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], env=os.environ | {MARK: mark}, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    child = None
    try:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        yield [psutil.Process(process.pid), child]
    finally:
        end_group(process)
        if child is not None and child.is_running():
            child.kill()


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_what_has_the_mark_is_ended_with_its_children_also_when_it_ignores_sigterm() -> None:
    with started("private-ours") as ours, started("private-other") as others:
        with ended_behind("private-ours"):
            assert all(map(lives, ours))
        assert not any(map(lives, ours))
        assert all(map(lives, others))


def test_an_orphan_that_was_known_and_what_is_started_within_the_block_are_ended_too() -> None:
    with ExitStack() as stack:
        parent, orphan = stack.enter_context(started("private-ours"))
        with ended_behind("private-ours"):
            parent.kill()
            wait_for(lambda: not lives(parent), 10)
            late = stack.enter_context(started("private-ours"))
            assert lives(orphan)
        assert not any(map(lives, [orphan, *late]))


def test_an_error_of_the_block_goes_on_behind_the_clean_up() -> None:
    with started("private-ours") as ours:
        with pytest.raises(ZeroDivisionError), ended_behind("private-ours"):
            raise ZeroDivisionError
        assert not any(map(lives, ours))
