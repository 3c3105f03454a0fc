"""Interruptions: SIGTERM as one, so that a verb that runs as a Ray job ends in order when the job is stopped; and ones that can wait.

Ray stops a job with SIGTERM, waits ``RAY_JOB_STOP_WAIT_TIME_S`` and then kills. Python's default for SIGTERM is to vanish without running
any ``finally``; as KeyboardInterrupt, the same clean-up runs as after Ctrl-C. Imports no Ray.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from foundation.progress import say

_IMPORTING = {"<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"}
_LOOK_AGAIN_S = 0.05


def terminate_as_interrupt() -> bool:
    """From now on SIGTERM is a Ctrl-C, also where SIGINT is ignored or blocked; a second one is ignored, so that the clean-up can finish.

    Call it after ``ray.init``, which installs handlers of its own: a Python one, then a native one that ends the process at once.

    Returns:
        False, and nothing is changed, outside the main thread, where Python lets nobody install handlers.
    """
    if not _is_main():
        return False
    signal.signal(signal.SIGTERM, _terminate)
    return True


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Not by SIGINT itself, which Ray blocks in a job's processes; and not past its handler, which may hold it back.
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)


def interrupt_for_sure() -> None:
    """From now on Ctrl-C is not lost where Python or a library drops what is raised: it comes again a moment later.

    While a module is imported it waits for the import's end; pressed again, it cuts it. An import that is cut is not always passed on
    (PyArrow drops whatever pandas raises when it looks for it), and half of a package stays in ``sys.modules``, where the clean-up
    stumbles over it. Python itself drops what is raised in hooks around a fork, which is where most interruptions land while a process is
    being started, in ``__del__`` and in callbacks. Takes SIGALRM for itself. An ignored SIGINT stays ignored.
    """
    if _is_main() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGALRM, _look_again)
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _dropped


def _dropped(what: sys.UnraisableHookArgs) -> None:
    if what.exc_type is KeyboardInterrupt:
        _look_soon()
    else:
        sys.__unraisablehook__(what)


def _interrupt(number: int, frame: FrameType | None) -> None:
    is_waiting = signal.getitimer(signal.ITIMER_REAL)[0] > 0
    if _is_importing(frame) and not is_waiting:
        _look_soon()
        return
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise KeyboardInterrupt


def _look_soon() -> None:
    signal.setitimer(signal.ITIMER_REAL, _LOOK_AGAIN_S)


def _look_again(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        _look_soon()
    elif callable(handler := signal.getsignal(signal.SIGINT)):  # by now somebody may hold it back, or the process may be at its end
        handler(signal.SIGINT, frame)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename in _IMPORTING:
            return True
        frame = frame.f_back
    return False


@contextmanager
def held_back(told: str | None = None) -> Iterator[None]:
    """Ctrl-C within the block interrupts at its end: a process that is being started has to be known to whoever will end it.

    Args:
        told: Said to whoever presses it, where the block can take seconds.

    Raises:
        KeyboardInterrupt: It came.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if told and not came:
            say(told)
        came.append(number)

    with put_back(signal.SIGINT, note):
        yield
    if came:
        raise KeyboardInterrupt


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a clean-up finish when Ctrl-C is pressed a second time."""
    with put_back(signal.SIGINT, lambda *_: say("still cleaning up, a moment please")):
        yield


@contextmanager
def put_back(number: int, handler: Callable[[int, FrameType | None], object] | None = None) -> Iterator[None]:
    """Put a signal's handler back behind the block, in which it is ``handler`` (None: as it was); outside the main thread, do nothing."""
    if not _is_main():
        yield
        return
    before = signal.getsignal(number)
    if handler is not None:
        signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before or signal.SIG_DFL)


def _is_main() -> bool:
    """Elsewhere Python lets nobody install handlers."""
    return threading.current_thread() is threading.main_thread()
