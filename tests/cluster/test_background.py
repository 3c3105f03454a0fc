"""Work beside the main thread: its result, its error, and its end when the main thread is interrupted."""

from __future__ import annotations

import queue
import signal
import sys
import threading
import time

import pytest

from cluster.background import Background


def test_the_result_comes_back() -> None:
    with Background(lambda: 7, name="adds") as work:
        assert work.result() == 7


def test_an_error_comes_back_as_it_was_raised() -> None:
    def fail() -> None:
        raise ValueError("no such rung")

    with Background(fail, name="fails") as work, pytest.raises(ValueError, match="no such rung"):
        work.result()


def test_an_exit_of_the_thread_is_no_exit_of_the_process() -> None:
    with Background(lambda: sys.exit(1), name="leaves") as work, pytest.raises(RuntimeError, match=r"leaves ended by SystemExit\(1\)"):
        work.result()


def test_whoever_waits_is_told_whether_it_has_ended() -> None:
    go = threading.Event()
    with Background(go.wait, name="waits") as work:
        assert not work.wait(0.01)
        go.set()
        assert work.result()
        assert work.wait(0)


def test_what_the_work_waits_for_comes_back_when_the_block_is_interrupted() -> None:
    answer: queue.SimpleQueue[None] = queue.SimpleQueue()
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        answer.get()  # within it no exception arrives from outside

    work = Background(wait, name="waits", end=lambda: answer.put(None))

    def interrupted() -> None:
        with work:
            waiting.wait(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert work.wait(0)


def test_ctrl_c_while_the_main_thread_waits_ends_the_work() -> None:
    reached = []

    def never_ends() -> None:
        try:
            while True:
                time.sleep(0.01)
        finally:
            reached.append("its end")

    def interrupted() -> None:
        with Background(never_ends, name="never ends") as work:
            threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
            work.result()

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached == ["its end"]


def test_an_interrupted_block_ends_the_work_before_it_is_left() -> None:
    started, handled = threading.Event(), []

    def never_ends() -> None:
        try:
            while True:
                try:
                    started.set()
                except Exception as error:  # as careless code does
                    handled.append(error)
        finally:
            handled.append("cleaned up")

    def interrupted(work: Background[None]) -> None:
        with work:
            started.wait(10)
            raise KeyboardInterrupt

    work = Background(never_ends, name="never ends")
    with pytest.raises(KeyboardInterrupt):
        interrupted(work)
    assert work.wait(0)
    assert handled == ["cleaned up"]
