"""Ends a worker that gets nowhere, and says where it stood: a collective of which a rank is missing would wait for half an hour.

A thread of each worker looks at when the engine was last called. After ``timeout_s`` without a call that began or ended, it writes the
stacks of all threads beside the run's record, waits a moment so that every rank can, and ends the process; Ray Train restarts the gang. The
driver tells what the ranks wrote. A rank that wrote nothing is the one that the others waited for.
"""

from __future__ import annotations

import faulthandler
import functools
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STACKS_FOLDER = "stacks"
LAST_WORDS_S = 3.0
"""Between writing and ending, so that the end of one rank cuts no other rank's words short."""
EXIT_CODE = 70
_CALLS = ("accumulate", "apply", "discard", "total", "evaluate", "begin", "finish")
"""Of an engine, and of what writes its checkpoints."""


class Watchdog:
    """Watches one worker's engine."""

    def __init__(self, folder: Path, attempt: str, rank: int, timeout_s: float, *, end: Callable[[int], object] = os._exit) -> None:
        """``folder``: the run's. ``end`` is called with an exit code."""
        self._file = folder / STACKS_FOLDER / f"{attempt}-rank-{rank}.txt"
        self._rank, self._timeout_s, self._end = rank, timeout_s, end
        self._call, self._at, self.step = "starting", time.monotonic(), 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="raybert-watchdog", daemon=True)

    def follow(self, target: Any) -> None:
        """Note when the methods of an engine, or of what writes its checkpoints, are called and left."""
        for name in _CALLS:
            if call := getattr(target, name, None):
                setattr(target, name, self._noted(name, call))

    def __enter__(self) -> Watchdog:
        self._at = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _noted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def noted(*given: Any, **named: Any) -> Any:
            self._call, self._at = f"in {name}", time.monotonic()
            try:
                return call(*given, **named)
            finally:
                self._call, self._at = f"after {name}", time.monotonic()

        return noted

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._timeout_s / 4)):
            still_s = time.monotonic() - self._at
            if still_s >= self._timeout_s:
                self._tell(still_s)
                if not self._over.wait(LAST_WORDS_S):
                    self._end(EXIT_CODE)
                return

    def _tell(self, still_s: float) -> None:
        about = {"rank": self._rank, "step": self.step, "call": self._call, "seconds": round(still_s, 1)}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("w", encoding="utf-8") as file:
            file.write(json.dumps(about) + "\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)


def last_words(folder: Path, attempt: str, world_size: int) -> str | None:
    """What the ranks of an attempt said before they ended themselves, in a line; None when none did."""
    said: dict[int, str] = {}
    for rank in range(world_size):
        try:
            first = (folder / STACKS_FOLDER / f"{attempt}-rank-{rank}.txt").read_text(encoding="utf-8").splitlines()[0]
            about = json.loads(first)
        except (OSError, ValueError, IndexError):
            continue
        said[rank] = f"rank {rank} {about['call']} for {about['seconds']:g} s at step {about['step']}"
    if not said:
        return None
    silent = [str(rank) for rank in range(world_size) if rank not in said]
    missing = f"; nothing from rank {', '.join(silent)}, for which the others may have waited" if silent else ""
    return f"no progress, so the workers were ended: {', '.join(said.values())}{missing}; their stacks are in {folder / STACKS_FOLDER}"
