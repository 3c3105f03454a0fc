"""Ctrl-C at the worst moment: while a process is being started, nobody knows yet whom to end."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

HELD_BACK = """
import os, signal
from cluster.signals import held_back
steps = []
try:
    with held_back():
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("went on")
except KeyboardInterrupt:
    steps.append("interrupted")
print(*steps, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
WHILE_A_STAGE_STARTS = """
import os, signal, subprocess, sys
from raybert import quickstart
started = []
class Starting(subprocess.Popen):
    def __init__(self, command, **named):
        super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **named)
        started.append(self)
        os.kill(os.getpid(), signal.SIGINT)
quickstart.subprocess.Popen = Starting
try:
    quickstart._call(["doctor"])
except KeyboardInterrupt:
    (stage,) = started
    assert stage.poll() is not None, "the stage that was being started goes on by itself"
    print("ended")
"""


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_interruption_that_is_held_back_comes_at_the_end_of_the_block() -> None:
    assert run(HELD_BACK) == "went on interrupted True\n"


def test_ctrl_c_while_a_stage_of_the_quickstart_starts_ends_it() -> None:
    assert run(WHILE_A_STAGE_STARTS) == "ended\n"
