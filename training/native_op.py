"""Native ops that torch builds on first use, built and loaded by one process of a host at a time.

torch guards such a build with a file, which a process that is killed meanwhile leaves behind; from then on every run on that host would
wait for it, without a word and without end. A lock that ends with its process stands before it here, and tells what is left behind from
what another program is building.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO, TypeVar

from foundation.progress import say

T = TypeVar("T")
LONGEST_BUILD_S = 120.0
"""Of another program; a file that is older is left from one that was killed. Here a build takes 30 s."""
_POLL_S = 0.1
_BUSY = "busy"


def one_at_a_time(folder: Path, load: Callable[[], T]) -> T:
    """``load()``, while no other process on this host is in here for the same folder.

    Args:
        folder: torch's build directory, whose ``lock`` guards a build.
        load: Builds in it.
    """
    with (folder / "raybert.lock").open("a+") as own:
        try:
            fcntl.flock(own, fcntl.LOCK_EX)
        except OSError:
            # A file system without locks (some network ones): the age of torch's guard alone tells what was left behind.
            _clear(folder / "lock", was_cut=False)
            return load()
        own.seek(0)
        _clear(folder / "lock", was_cut=own.read() == _BUSY)
        _mark(own, _BUSY)
        try:
            return load()
        finally:
            _mark(own, "")


def _mark(own: TextIO, text: str) -> None:
    own.truncate(0)
    own.write(text)
    own.flush()


def _clear(guard: Path, *, was_cut: bool) -> None:
    """Wait for another program's build, unless ``guard`` is what a killed process left."""
    while (age_s := _age_s(guard)) is not None:
        if was_cut or age_s > LONGEST_BUILD_S:
            say(f"warning: {guard}: left by a process that was killed; removed")
            guard.unlink(missing_ok=True)
            return
        time.sleep(_POLL_S)


def _age_s(file: Path) -> float | None:
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return None
