"""Work that calls Ray, in a thread of its own, so that the main thread stays free for Ctrl-C. Imports no Ray.

Ray's trainers take over Ctrl-C when they run in the main thread, and end the process with exit code 0. In another thread they go on while
the main thread shuts Ray down, and a call into a Ray that is gone ends the process at once, with exit code 1 and without a word. So the
thread has to end first.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

Result = TypeVar("Result")

_END_S = 2.0


class Background(Generic[Result]):
    """Runs ``work`` within a ``with`` block; leaving the block by an exception interrupts it.

    Args:
        work: Called once, without arguments.
        name: The thread's.
        end: Called when the block is left by an exception: makes what ``work`` waits for within Ray come back.
    """

    def __init__(self, work: Callable[[], Result], *, name: str, end: Callable[[], None] | None = None) -> None:
        self._work, self._end = work, end
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # Not the thread's own word: CPython 3.11 takes a thread for ended when Ctrl-C comes while it is joined.
        self._ended = threading.Event()
        self._result: list[Result] = []
        self._error: BaseException | None = None

    def __enter__(self) -> Background[Result]:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and self._thread.ident is not None and not self._ended.is_set():
            # Raised at the next line of Python in that thread. Inside a native call, as a wait for an actor, that is when it returns: at
            # the latest when Ray shuts down, and then, on a busy machine, not always without one more call into what is gone.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread.ident), ctypes.py_object(SystemExit))
            if self._end is not None:
                self._end()
            self._ended.wait(_END_S)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; whether it is reached."""
        return self._ended.wait(timeout_s)

    def result(self) -> Result:
        """What ``work`` returned, once it has ended.

        Raises:
            Exception: What ``work`` raised; RuntimeError if that would end this process without a word, as SystemExit does.
        """
        while not self.wait(0.5):  # a wait without a timeout would not notice Ctrl-C
            pass
        if isinstance(self._error, Exception):
            raise self._error
        if self._error is not None:
            raise RuntimeError(f"{self._thread.name} ended by {self._error!r}")
        return self._result[0]

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()
