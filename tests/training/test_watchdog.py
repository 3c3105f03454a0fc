"""A worker that gets nowhere says where it stands and ends; one that works is left alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_for
from training import watchdog
from training.launch import LastWords
from training.watchdog import STACKS_FOLDER, Watchdog, last_words


class SlowEngine:
    """Stays in ``total`` until it is let go."""

    def __init__(self) -> None:
        self.is_free = threading.Event()

    def accumulate(self) -> int:
        return 3

    def total(self) -> None:
        assert self.is_free.wait(30)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowEngine]:
    monkeypatch.setattr(watchdog, "LAST_WORDS_S", 0.01)
    engine = SlowEngine()
    yield engine
    engine.is_free.set()


def test_a_worker_that_waits_for_others_writes_the_stack_of_its_call_and_ends(engine: SlowEngine, tmp_path: Path) -> None:
    ended: list[int] = []
    with Watchdog(tmp_path, "a1", 1, 0.1, end=ended.append) as dog:
        dog.follow(engine)
        assert engine.accumulate() == 3
        dog.step = 7
        caller = threading.Thread(target=engine.total)
        caller.start()
        wait_for(lambda: ended, 20, "the end")
        engine.is_free.set()
        caller.join()
    assert ended == [watchdog.EXIT_CODE]
    text = (tmp_path / STACKS_FOLDER / "a1-rank-1.txt").read_text()
    assert "in total" in text, "the stack of the thread that waits"
    told = last_words(tmp_path, "a1", 2)
    assert told is not None
    assert "rank 1 in total for 0." in told
    assert "at step 7; nothing from rank 0, for which the others may have waited" in told
    assert last_words(tmp_path, "b2", 2) is None


def test_a_worker_whose_calls_come_and_go_is_left_alone(engine: SlowEngine, tmp_path: Path) -> None:
    ended: list[int] = []
    calls = 0
    with Watchdog(tmp_path, "a1", 0, 5.0, end=ended.append) as dog:
        dog.follow(engine)
        over = threading.Event()
        threading.Timer(0.3, over.set).start()
        while not over.is_set():
            engine.accumulate()
            calls += 1
    assert calls > 0
    assert (ended, list(tmp_path.iterdir())) == ([], [])


def test_the_driver_tells_once_when_the_gang_has_ended_and_not_of_another_attempt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, failure = LastWords(tmp_path), {"event": "failure", "ranks": {}}
    words.follow([{"event": "attempt", "attempt": "a1", "world_size": 2}, failure])
    assert capsys.readouterr().err == "", "nobody wrote anything"
    (tmp_path / STACKS_FOLDER).mkdir()
    for rank in range(2):
        (tmp_path / STACKS_FOLDER / f"a1-rank-{rank}.txt").write_text(
            f'{{"rank": {rank}, "step": 5, "call": "in apply", "seconds": 9.5}}\n'
        )
        words.follow([])
        assert capsys.readouterr().err == "", "the other rank may still be writing"
    words.follow([failure])
    said = capsys.readouterr().err
    assert "no progress, so the workers were ended: rank 0 in apply for 9.5 s at step 5, rank 1 in apply" in said
    words.follow([{"event": "attempt", "attempt": "b2", "world_size": 2}, failure])
    assert capsys.readouterr().err == ""
