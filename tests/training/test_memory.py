"""Freed memory is kept from step to step, and given back before it is more than steps need."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from training.memory import Trimming

A_MINUTE = 60.0
FRAGMENTED = """
import ctypes, psutil
from training.memory import give_freed_memory_back, keep_freed_memory
keep_freed_memory()
held = lambda: psutil.Process().memory_info().rss
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
begun = held()
blocks = [malloc(2**20) for _ in range(200)]
for block in blocks:
    ctypes.memset(block, 1, 2**20)
for number, block in enumerate(blocks):
    if number % 20:  # the others keep the heap from shrinking at its end
        free(block)
kept = held()
give_freed_memory_back()
print(kept - begun, held() - begun)
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_is_due_once_more_is_held_than_a_step_needs() -> None:
    clock = Clock()
    trimming = Trimming(clock)
    clock.now = A_MINUTE
    assert [trimming.is_due(held) for held in (100, 90, 125, 126)] == [False, False, False, True]


def test_the_first_step_after_it_was_due_says_anew_what_a_step_needs() -> None:
    clock = Clock()
    trimming = Trimming(clock)
    clock.now = A_MINUTE
    assert [trimming.is_due(held) for held in (100, 200)] == [False, True]
    clock.now = 2 * A_MINUTE
    assert [trimming.is_due(held) for held in (160, 199, 201)] == [False, False, True]


def test_it_is_due_at_most_once_a_minute_so_that_it_costs_next_to_nothing() -> None:
    clock = Clock()
    trimming = Trimming(clock)
    assert not trimming.is_due(100)
    dues = []
    for second in range(180):
        clock.now = float(second)
        dues.append(trimming.is_due(100 + 100 * (second % 2)))
    assert sum(dues) == 2


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_freed_pages_in_the_middle_of_the_heap_are_kept_and_then_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 190 * 2**20
    assert left < 40 * 2**20
