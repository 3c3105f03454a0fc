"""A build that was killed does not keep later runs waiting, and one that goes on is waited for."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from training.native_op import LONGEST_BUILD_S, one_at_a_time

# As a worker that is killed while torch builds: torch's guard is there and will never go.
_KILLED = """
import sys, time
from pathlib import Path
from training.native_op import one_at_a_time
folder = Path(sys.argv[1])
def build():
    (folder / "lock").touch()
    print("building", flush=True)
    time.sleep(600)
one_at_a_time(folder, build)
"""


def test_what_a_killed_build_left_is_removed_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "building\n"
        os.kill(builder.pid, signal.SIGKILL)
    assert (tmp_path / "lock").exists()
    assert one_at_a_time(tmp_path, lambda: (tmp_path / "lock").exists()) is False
    assert "left by a process that was killed; removed" in capsys.readouterr().err


def test_another_programs_build_is_waited_for_until_it_is_too_old(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard = tmp_path / "lock"
    guard.touch()
    other = threading.Timer(0.3, guard.unlink)
    other.start()
    assert one_at_a_time(tmp_path, lambda: "loaded") == "loaded"
    other.join()
    assert "removed" not in capsys.readouterr().err
    guard.touch()
    long_ago = time.time() - LONGEST_BUILD_S - 1
    os.utime(guard, (long_ago, long_ago))
    assert one_at_a_time(tmp_path, lambda: "loaded") == "loaded"
    assert not guard.exists()


def test_on_a_file_system_without_locks_a_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuses)
    guard = tmp_path / "lock"
    guard.touch()
    long_ago = time.time() - LONGEST_BUILD_S - 1
    os.utime(guard, (long_ago, long_ago))
    assert one_at_a_time(tmp_path, lambda: not guard.exists()) is True


def test_a_build_that_fails_leaves_the_next_one_free(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no compiler"):
        one_at_a_time(tmp_path, _fails)
    guard = tmp_path / "lock"
    guard.touch()  # another program's, not ours
    other = threading.Timer(0.3, guard.unlink)
    other.start()
    assert one_at_a_time(tmp_path, lambda: "loaded") == "loaded"
    other.join()


def _fails() -> None:
    raise RuntimeError("no compiler")
