"""How the C library gives memory back, for processes that train on CPUs."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process keep freed memory of up to 2 GiB a block, instead of returning it and asking again in the next step.

    Gradients of embeddings and logits of a vocabulary are tens of megabytes; by default glibc maps each anew, and the kernel clears it page
    by page: 2 to 3 % of a step on two cores. Does nothing where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MOST)
        mallopt(_TRIM_THRESHOLD, _MOST)
