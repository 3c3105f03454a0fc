"""The queue before a model: rows come back to whom they belong, late ones never run, a full queue says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from serving.batcher import Batcher
from serving.batching import Limits
from serving.classifier import Classifier
from serving.errors import DeadlineExceeded, ModelFailed, NotReady, QueueFull

LIMITS = Limits(max_batch_tokens=64, max_batch_rows=4)
WORDS = [
    "good",
    "bad",
    "a good product",
    "this is a very slow service and a bad product",
    "nice",
    "the music was wonderful and the plot awful",
]


class GatedModel:
    """Answers with each row's sum, and holds every batch until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def forward(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        self.entered.release()
        assert self.gate.acquire(timeout=10)
        self.batches.append([len(row) for row in rows])
        return np.array([[sum(row)] for row in rows], dtype=np.float32)

    def let_go(self, batches: int = 1000) -> None:
        self.gate.release(batches)

    async def is_running(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


def test_scores_are_the_same_alone_and_in_any_batch(classifier: Classifier) -> None:
    async def run() -> None:
        batcher = Batcher(classifier.logits, LIMITS, max_queue_tokens=10_000)
        rows = classifier.tokenize(WORDS * 5)
        together, *alone = await asyncio.gather(batcher.submit(rows), *(batcher.submit([row]) for row in rows))
        await batcher.close()
        plain = np.concatenate([classifier.logits([row]) for row in rows])
        np.testing.assert_allclose(together, plain, atol=1e-4)
        np.testing.assert_allclose(np.concatenate(alone), plain, atol=1e-4)

    asyncio.run(run())


def test_a_large_request_is_split_and_comes_back_in_order() -> None:
    async def run() -> None:
        model = GatedModel()
        model.let_go()
        batcher = Batcher(model.forward, LIMITS, max_queue_tokens=10_000)
        rows = [[value] * (1 + value % 7) for value in range(50)]
        found = await batcher.submit(rows)
        assert found[:, 0].tolist() == [float(sum(row)) for row in rows]
        assert len(model.batches) > 1
        assert max(len(batch) for batch in model.batches) <= LIMITS.max_batch_rows
        assert (batcher.queued_rows, batcher.queued_tokens) == (0, 0)
        await batcher.close()

    asyncio.run(run())


def test_a_full_queue_refuses_and_says_when_to_come_back_but_an_idle_one_takes_any_request() -> None:
    async def run() -> None:
        model = GatedModel()
        batcher = Batcher(model.forward, LIMITS, max_queue_tokens=20)
        running = asyncio.create_task(batcher.submit([[1] * 100]))  # over the limit, but nothing waits
        await model.is_running()
        waiting = asyncio.create_task(batcher.submit([[1] * 15]))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as refused:
            await batcher.submit([[1] * 6])
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s >= 1
        model.let_go()
        await asyncio.gather(running, waiting)
        await batcher.submit([[1] * 6])
        await batcher.close()

    asyncio.run(run())


def test_cancelled_and_late_requests_leave_before_the_forward_pass_and_make_room_at_once() -> None:
    async def run() -> None:
        model = GatedModel()
        clock = [100.0]
        batcher = Batcher(model.forward, LIMITS, max_queue_tokens=50, clock=lambda: clock[0])
        running = asyncio.create_task(batcher.submit([[1] * 3]))
        await model.is_running()
        cancelled = asyncio.create_task(batcher.submit([[1] * 21, [1] * 22]))
        late = asyncio.create_task(batcher.submit([[1] * 5], deadline_s=100.02))
        kept = asyncio.create_task(batcher.submit([[1] * 2], deadline_s=200.0))
        await asyncio.sleep(0)
        assert batcher.queued_tokens == 50
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert batcher.queued_tokens == 7
        clock[0] = 101.0
        with pytest.raises(DeadlineExceeded):
            await late
        model.let_go()
        await asyncio.gather(running, kept)
        assert model.batches == [[3], [2]]
        assert (batcher.queued_rows, batcher.queued_tokens) == (0, 0)
        await batcher.close()

    asyncio.run(run())


def test_closing_finishes_what_was_admitted_and_takes_no_more() -> None:
    async def run() -> None:
        model = GatedModel()
        batcher = Batcher(model.forward, Limits(64, 4, max_wait_s=60.0), max_queue_tokens=1000)
        admitted = [asyncio.create_task(batcher.submit([[value]])) for value in range(3)]
        await asyncio.sleep(0)
        model.let_go()
        await asyncio.wait_for(batcher.close(), timeout=10)
        assert [float((await task)[0, 0]) for task in admitted] == [0.0, 1.0, 2.0]
        with pytest.raises(NotReady):
            await batcher.submit([[1]])

    asyncio.run(run())


def test_a_failing_model_fails_its_requests_and_the_next_ones_are_answered() -> None:
    def forward(rows: Sequence[Sequence[int]]) -> np.ndarray:
        if any(13 in row for row in rows):
            raise RuntimeError("thirteen")
        return np.zeros((len(rows), 1), dtype=np.float32)

    async def run() -> None:
        batcher = Batcher(forward, LIMITS, max_queue_tokens=1000)
        with pytest.raises(ModelFailed, match="thirteen"):
            await batcher.submit([[13]])
        assert (await batcher.submit([[1]])).shape == (1, 1)
        await batcher.close()

    asyncio.run(run())


def test_a_health_probe_passes_a_long_queue() -> None:
    async def run() -> None:
        model = GatedModel()
        batcher = Batcher(model.forward, Limits(8, 1), max_queue_tokens=1000)
        waiting = [asyncio.create_task(batcher.submit([[1] * 8])) for _ in range(10)]
        await model.is_running()
        probe = asyncio.create_task(batcher.probe([5]))
        await asyncio.sleep(0.01)
        model.let_go(2)
        assert float((await asyncio.wait_for(probe, timeout=10))[0, 0]) == 5.0
        model.let_go()
        await asyncio.gather(*waiting)
        assert model.batches[1] == [1]
        await batcher.close()

    asyncio.run(run())
