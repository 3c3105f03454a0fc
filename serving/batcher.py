"""The queue in front of one model: admits by tokens, runs planned batches on a thread of its own, hands every request its rows back.

Lives on one asyncio loop and never blocks it. Knows rows that have a length in tokens and a function from rows to numbers; no texts, no
HTTP, no Ray.
What runs together is decided in ``batching.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from serving.batching import Limits, Plan, Waiting, padded_cost, plan
from serving.errors import DeadlineExceeded, ModelFailed, NotReady, QueueFull

log = logging.getLogger(__name__)

# N rows of one request, B rows of one batch, C classes
Forward = Callable[[Sequence[Any]], np.ndarray]
"""Rows, as they were submitted, to logits (B, C); called on the batcher's own thread."""

_FIRST_GUESS_TOKENS_PER_S = 4000.0
_LONGEST_RETRY_AFTER_S = 30.0


class Observer(Protocol):
    """Who counts; ``serving.metrics.Metrics`` is one."""

    def batch(self, *, rows: int, tokens: int, padded_tokens: int, seconds: float) -> None:
        """A forward pass ended."""

    def dropped(self, *, rows: int, reason: str) -> None:
        """Rows left the queue unread."""


@dataclass
class _Request:
    """One admitted request: its rows come back one batch at a time."""

    answer: asyncio.Future[np.ndarray]
    deadline_s: float | None
    missing: int
    logits: list[np.ndarray | None]
    waiting_rows: int = 0
    waiting_tokens: int = 0


@dataclass
class _Row:
    tokens: Sized
    place: int
    request: _Request
    arrived_s: float

    def waiting(self) -> Waiting:
        return Waiting(len(self.tokens), self.arrived_s, self.request.deadline_s, self.request.answer.done())


class Batcher:
    """A token-weighted queue and one worker thread.

    Args:
        forward: Rows to logits.
        limits: What one forward pass may hold.
        max_queue_tokens: Tokens that may wait; an empty queue takes a request of any size, so that none is refused for ever.
        observer: Told of each batch and each dropped row.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        forward: Forward,
        limits: Limits,
        *,
        max_queue_tokens: int,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._forward = forward
        self._limits = limits
        self._max_queue_tokens = max_queue_tokens
        self._observer = observer
        self._clock = clock
        self._queue: deque[_Row] = deque()
        self._queued_tokens = 0
        self._queued_rows = 0
        self._tokens_per_s = _FIRST_GUESS_TOKENS_PER_S
        self._arrival = asyncio.Event()
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None
        # One thread: the model's own threads already use the replica's CPUs, and results stay in order.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forward")

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait, those in the running forward pass not counted."""
        return self._queued_tokens

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queued_rows

    def check_room(self, tokens: int = 1) -> None:
        """Refuse what would not fit now.

        Raises:
            QueueFull: ``tokens`` more would exceed the limit; says when to come back.
        """
        if self._queued_tokens and self._queued_tokens + tokens > self._max_queue_tokens:
            raise QueueFull(
                f"{self._queued_tokens} tokens wait and {tokens} more would exceed {self._max_queue_tokens}; send less or come back later",
                retry_after_s=min(_LONGEST_RETRY_AFTER_S, max(1.0, math.ceil(self._queued_tokens / self._tokens_per_s))),
            )

    async def submit(self, rows: Sequence[Sized], *, deadline_s: float | None = None) -> np.ndarray:
        """Run rows, in as many batches as it takes.

        Args:
            rows: What ``forward`` takes; a row's length is its tokens.
            deadline_s: On the batcher's clock; rows that still wait then are dropped.

        Returns:
            Logits (N, C), in the order of ``rows``.

        Raises:
            QueueFull: Not admitted.
            DeadlineExceeded: Not answered in time.
            NotReady: The batcher is closing.
            ModelFailed: The forward pass raised.
        """
        if self._is_closing:
            raise NotReady("the service is shutting down")
        if not rows:
            raise ValueError("no rows to run")
        self.check_room(sum(map(len, rows)))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="batcher")
        request = _Request(asyncio.get_running_loop().create_future(), deadline_s, len(rows), [None] * len(rows))
        now_s = self._clock()
        for place, row in enumerate(rows):
            self._queue.append(_Row(row, place, request, now_s))
            self._count(request, 1, len(row))
        self._arrival.set()
        try:
            timeout_s = None if deadline_s is None else max(0.0, deadline_s - now_s)
            async with asyncio.timeout(timeout_s):
                return await request.answer
        except TimeoutError:
            raise DeadlineExceeded("not answered in time; the service is busy, come back later or send less") from None
        finally:
            if request.missing:
                # Cancelled, late or failed. Its rows leave with the next plan; their tokens make room at once.
                request.answer.cancel()
                self._count(request, -request.waiting_rows, -request.waiting_tokens)

    async def probe(self, row: Sized) -> np.ndarray:
        """Run one row next, past the queue: for health checks, which must not fail because the queue is long.

        Raises:
            NotReady: The batching loop has ended.
        """
        if self._is_closing or (self._task is not None and self._task.done()):
            raise NotReady("the batcher has stopped")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._forward, [row])

    async def close(self) -> None:
        """Take nothing more, finish what was admitted, end the thread."""
        self._is_closing = True
        self._arrival.set()
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while self._queue or not self._is_closing:
            if not self._queue:
                self._arrival.clear()
                await self._arrival.wait()
                continue
            now_s = self._clock()
            # Rows beyond this stretch are not considered by the planner, so a long queue costs no more than a short one.
            head = [row.waiting() for row in itertools.islice(self._queue, 16 * self._limits.max_batch_rows)]
            limits = replace(self._limits, max_wait_s=0.0) if self._is_closing else self._limits
            decision = plan(head, now_s, limits)
            taken, dropped = self._remove(decision)
            if dropped:
                self._drop(dropped)
            if taken:
                await self._run_batch(taken)
            elif decision.wait_s is not None:
                self._arrival.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(decision.wait_s):
                        await self._arrival.wait()

    def _remove(self, decision: Plan) -> tuple[list[_Row], list[_Row]]:
        gone = {*decision.take, *decision.drop}
        head = [self._queue.popleft() for _ in range(max(gone, default=-1) + 1)]
        self._queue.extendleft(row for index, row in reversed(list(enumerate(head))) if index not in gone)
        for index in gone:
            row = head[index]
            if row.request.waiting_rows:  # zero: its request has left already, and took its share along
                self._count(row.request, -1, -len(row.tokens))
        return [head[index] for index in decision.take], [head[index] for index in decision.drop]

    def _count(self, request: _Request, rows: int, tokens: int) -> None:
        request.waiting_rows += rows
        request.waiting_tokens += tokens
        self._queued_rows += rows
        self._queued_tokens += tokens

    def _drop(self, rows: Sequence[_Row]) -> None:
        for row in rows:
            if not row.request.answer.done():
                row.request.answer.set_exception(DeadlineExceeded("not answered in time; the service is busy, come back later"))
        if self._observer:
            self._observer.dropped(rows=len(rows), reason="cancelled_or_late")

    async def _run_batch(self, rows: Sequence[_Row]) -> None:
        lengths = [len(row.tokens) for row in rows]
        started_s = self._clock()
        try:
            loop = asyncio.get_running_loop()
            logits_BC = await loop.run_in_executor(self._thread, self._forward, [row.tokens for row in rows])
        except Exception as error:  # whatever the model raises ends these requests, not the service
            log.exception("forward pass over %d rows failed", len(rows))
            for row in rows:
                if not row.request.answer.done():
                    row.request.answer.set_exception(ModelFailed(f"the model failed: {type(error).__name__}: {error}"))
            return
        seconds = max(1e-9, self._clock() - started_s)
        tokens, padded = sum(lengths), padded_cost(lengths)
        self._tokens_per_s += 0.2 * (tokens / seconds - self._tokens_per_s)
        if self._observer:
            self._observer.batch(rows=len(rows), tokens=tokens, padded_tokens=padded, seconds=seconds)
        for row, logits_C in zip(rows, logits_BC, strict=True):
            row.request.logits[row.place] = logits_C
            row.request.missing -= 1
            if row.request.missing == 0 and not row.request.answer.done():
                row.request.answer.set_result(np.stack([part for part in row.request.logits if part is not None]))
