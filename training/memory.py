"""How the C library gives memory back, for processes that train on CPUs."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_MOST = 2**31 - 1
_GROWTH = 1.25
_SECONDS_BETWEEN = 60.0


def keep_freed_memory() -> None:
    """Let this process keep freed memory of up to 2 GiB a block, instead of returning it and asking again in the next step.

    Gradients of embeddings and logits of a vocabulary are tens of megabytes; by default glibc maps each anew, and the kernel clears it page
    by page: 2 to 3 % of a step on two cores. Does nothing where the C library is another one. What is kept falls to pieces where steps
    differ in length: ``Trimming``.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MOST)
        mallopt(_TRIM_THRESHOLD, _MOST)


def give_freed_memory_back() -> None:
    """Return all freed pages to the system, where the C library is glibc.

    Takes a tenth of a second for a gigabyte, and the next step as much again.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Trimming:
    """When to give freed memory back: once it has grown by a quarter over a step's need, at most once a minute.

    Kept blocks are cut up by tensors of ever new sizes: a MiniLM on texts of 83 tokens needs 1.7 GB for a step, and held 4.5 GB after 600.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()
        self._needed: int | None = None

    def is_due(self, resident: int) -> bool:
        """Ask once after each step.

        Args:
            resident: Bytes of this process in memory. The first step, and the first after each time it was due, says what a step needs.
        """
        if self._needed is None:
            self._needed = resident
        if resident <= _GROWTH * self._needed or self._clock() < self._last + _SECONDS_BETWEEN:
            return False
        self._needed, self._last = None, self._clock()
        return True
