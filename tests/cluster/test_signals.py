"""Ctrl-C at the worst moments: while a process is being started, nobody knows yet whom to end; an import may swallow it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
# Imports a module that presses Ctrl-C, waits, and drops whatever is raised meanwhile.
WHILE_A_MODULE_IS_IMPORTED = """
import signal, sys, time
from cluster.signals import held_back, interrupt_for_sure
interrupt_for_sure()
steps = []
try:
    try:
        import swallows
    finally:
        steps += sys.steps
    {behind}
    time.sleep(60)
except KeyboardInterrupt:
    steps.append("interrupted")
print(*steps)
"""
SWALLOWS = """
import signal, sys, time
sys.steps = []
def pressed():
    try:
        signal.raise_signal(signal.SIGINT)
        ends = time.monotonic() + 0.3
        while time.monotonic() < ends:
            pass
    except BaseException:
        return "swallowed"
    return "imported"
sys.steps.append(pressed())
"""
# Ctrl-C in a hook that Python calls around a fork.
WHILE_A_PROCESS_IS_FORKED = """
import os, signal, subprocess, sys, time
from cluster.signals import interrupt_for_sure
interrupt_for_sure()
steps = []
def pressed():
    if not steps:
        steps.append("pressed")
        signal.raise_signal(signal.SIGINT)
os.register_at_fork(after_in_parent=pressed)
try:
    subprocess.run([sys.executable, "-c", ""], preexec_fn=int, check=True)
    steps.append("started")
    time.sleep(10)
    steps.append("never")
except KeyboardInterrupt:
    steps.append("interrupted")
print(*steps)
"""
# As it is left by an import of Ray that was cut: its second import fails on what the first one left.
WHILE_RAY_IS_IMPORTED = """
import sys
from importlib.abc import MetaPathFinder
from cluster.session import session
class Cut(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "ray._private.worker":
            sys.meta_path.remove(self)
            raise KeyboardInterrupt
sys.meta_path.insert(0, Cut())
try:
    with session(cpus=1):
        pass
except KeyboardInterrupt:
    print("interrupted")
"""


def run(script: str, path: Path = ROOT) -> str:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{path}"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_interruption_that_is_held_back_comes_at_the_end_of_the_block() -> None:
    assert run(HELD_BACK) == "went on interrupted True\n"


def test_ctrl_c_while_a_stage_of_the_quickstart_starts_ends_it() -> None:
    assert run(WHILE_A_STAGE_STARTS) == "ended\n"


def test_ctrl_c_while_a_module_is_imported_interrupts_behind_it(tmp_path: Path) -> None:
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    behind = "time.sleep(10); steps.append('never')"
    assert run(WHILE_A_MODULE_IS_IMPORTED.format(behind=behind), tmp_path) == "imported interrupted\n"


def test_ctrl_c_while_a_module_is_imported_is_held_back_by_what_follows(tmp_path: Path) -> None:
    """The alarm is let through within the block only: by itself it may come in the moment between the import and the block."""
    (tmp_path / "swallows.py").write_text(SWALLOWS + "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n")
    let_through = "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])"
    behind = f"with held_back(): {let_through}; time.sleep(0.3); steps.append('held back')"
    assert run(WHILE_A_MODULE_IS_IMPORTED.format(behind=behind), tmp_path) == "imported held back interrupted\n"


def test_ctrl_c_pressed_again_cuts_the_import(tmp_path: Path) -> None:
    again = SWALLOWS.replace("signal.raise_signal(signal.SIGINT)", "signal.raise_signal(signal.SIGINT); signal.raise_signal(signal.SIGINT)")
    (tmp_path / "swallows.py").write_text(again.replace("except BaseException", "except ValueError") + "sys.steps.append('imported')")
    assert run(WHILE_A_MODULE_IS_IMPORTED.format(behind="steps.append('never')"), tmp_path) == "interrupted\n"


def test_ctrl_c_while_a_process_is_forked_interrupts_behind_it() -> None:
    assert run(WHILE_A_PROCESS_IS_FORKED) in ("pressed started interrupted\n", "pressed interrupted\n")


def test_ctrl_c_while_ray_is_imported_is_an_interruption() -> None:
    assert run(WHILE_RAY_IS_IMPORTED) == "interrupted\n"
