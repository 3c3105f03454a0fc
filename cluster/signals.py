"""Interruptions: SIGTERM as one, so that a verb that runs as a Ray job ends in order when the job is stopped; and one that can wait.

Ray stops a job with SIGTERM, waits ``RAY_JOB_STOP_WAIT_TIME_S`` and then kills. Python's default for SIGTERM is to vanish without running
any ``finally``; as KeyboardInterrupt, the same clean-up runs as after Ctrl-C. Imports no Ray.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def terminate_as_interrupt() -> bool:
    """From now on SIGTERM raises KeyboardInterrupt in the main thread; a second one is ignored, so that the clean-up can finish.

    Call it after ``ray.init``, which installs handlers of its own: a Python one, then a native one that ends the process at once.

    Returns:
        False, and nothing is changed, outside the main thread, where Python lets nobody install handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    signal.signal(signal.SIGTERM, _interrupt)
    return True


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C within the block interrupts at its end: a process that is being started has to be known to whoever will end it.

    Raises:
        KeyboardInterrupt: It came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
