"""The inside of one replica: one loaded model behind its queue, and its successor when the alias moves.

A new version is loaded, checked and warmed up beside the one that answers; then one assignment makes it the one that new requests take,
and the old one ends when the last request that took it has its answer. A version that cannot be loaded never replaces one that works.
Knows asyncio, no HTTP and no Ray.

Read next: ``http.py``, the edge over it, and ``replica.py``, which runs it under Ray Serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from foundation.errors import RegistryError
from foundation.references import alias_of
from foundation.registry import Registry
from serving.batcher import Batcher
from serving.batching import Limits
from serving.classifier import Classifier, resolve_bundle
from serving.config import ServiceConfig
from serving.errors import NotReady, TooLarge, UnknownModel
from serving.metrics import Metrics
from serving.schema import ClassifyRequest, ClassifyResponse, ClassifyResult, ModelCard, ScoredLabel, Usage

log = logging.getLogger(__name__)

_CANARY_TIMEOUT_S = 20.0


class _Served:
    """A model, its queue, and how many requests hold it."""

    def __init__(self, classifier: Classifier, batcher: Batcher) -> None:
        self.classifier = classifier
        self.batcher = batcher
        self.holders = 0
        self.is_free = asyncio.Event()


class ModelHost:
    """Answers classification requests with the model that its REF names now.

    Args:
        config: The service's recipe.
        metrics: Counts.
        registry: Where names are looked up; default: the home's.
    """

    def __init__(self, config: ServiceConfig, *, metrics: Metrics | None = None, registry: Registry | None = None) -> None:
        self.config = config
        self.metrics = metrics or Metrics()
        self._registry = registry
        self._alias = alias_of(config.model)
        self._served: _Served | None = None
        self._refused: str | None = None
        self._is_closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        # A tokenizer of its own thread: neither the event loop nor the forward pass waits for a long text.
        self._tokenizing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize")

    @property
    def is_ready(self) -> bool:
        """Whether a model answers."""
        return self._served is not None and not self._is_closing

    async def start(self) -> None:
        """Load the model, then follow its alias if it has one.

        Raises:
            foundation.errors.RaybertError: The model cannot be served; see ``Classifier.open``.
        """
        self._install(await asyncio.to_thread(self._open))
        if self._alias is not None:
            self._spawn(self._follow())

    async def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """Answer one request.

        Raises:
            RequestError: One of ``serving.errors``; each knows its HTTP status.
        """
        texts = request.texts()
        if len(texts) > self.config.max_texts_per_request:
            raise TooLarge(
                f"{len(texts)} texts, at most {self.config.max_texts_per_request} fit in one request; send several, or `raybert classify`",
                field="inputs",
            )
        deadline_s = time.monotonic() + self.config.request_timeout_s
        async with self._hold() as served:
            classifier = served.classifier
            self._check_model(request.model, classifier)
            served.batcher.check_room()
            loop = asyncio.get_running_loop()
            rows = await loop.run_in_executor(self._tokenizing, lambda: classifier.tokenize(texts, truncate=request.truncate))
            logits_NC = await served.batcher.submit(rows, deadline_s=deadline_s)
        found = classifier.results(logits_NC, rows, top_k=request.top_k, threshold=request.threshold, raw_scores=request.raw_scores)
        return ClassifyResponse.model_construct(
            model=classifier.identity.name,
            version=classifier.identity.version,
            results=[
                ClassifyResult.model_construct(
                    labels=[ScoredLabel.model_construct(label=item.label, score=item.score) for item in result.labels],
                    predicted=list(result.predicted),
                    tokens=result.tokens,
                    truncated=result.truncated,
                )
                for result in found
            ],
            usage=Usage.model_construct(texts=len(rows), tokens=sum(map(len, rows))),
        )

    def models(self) -> list[ModelCard]:
        """What is served here.

        Raises:
            NotReady: Nothing yet.
        """
        classifier = self._require().classifier
        manifest = classifier.bundle.manifest
        return [
            ModelCard(
                model=classifier.identity.name,
                version=classifier.identity.version,
                ref=self.config.model,
                digest=classifier.identity.digest,
                task=classifier.task,
                labels=list(classifier.labels),
                thresholds=classifier.thresholds,
                takes_pairs=classifier.model.takes_pairs,
                max_length=classifier.max_length,
                run_id=manifest.run_id,
                created=manifest.created,
                metrics=manifest.metrics,
            )
        ]

    async def check(self) -> None:
        """Run a canary through the model.

        Raises:
            NotReady: No model, a dead queue, or no answer within the deadline.
        """
        served = self._require()
        (row,) = await asyncio.get_running_loop().run_in_executor(self._tokenizing, served.classifier.tokenize, ["ping"])
        try:
            async with asyncio.timeout(_CANARY_TIMEOUT_S):
                logits = await served.batcher.probe(row)
        except TimeoutError:
            raise NotReady(f"the model gave no answer to a canary within {_CANARY_TIMEOUT_S:.0f} s") from None
        served.classifier.results(logits, [row])

    async def follow_once(self) -> bool:
        """Ask the registry once where the alias points, and go along. Returns whether another version answers now."""
        current = self._require().classifier.identity
        try:
            digest = await asyncio.to_thread(self._digest_now)
        except Exception as error:  # an unreachable registry must not end a service that answers
            log.warning("%s: the registry does not answer, version %s stays: %s", self.config.model, current.version, error)
            return False
        if digest in (current.digest, self._refused):
            return False
        try:
            classifier = await asyncio.to_thread(self._open)
        except Exception as error:  # whatever is wrong with the new version, the old one answers on
            self._refused = digest
            self.metrics.swap("refused")
            log.error("%s: moved, but the new version is refused and version %s stays: %s", self.config.model, current.version, error)
            return False
        self._install(classifier)
        self._refused = None
        self.metrics.swap("done")
        log.info("%s: version %s answers now, was %s", self.config.model, classifier.identity.version, current.version)
        return True

    async def close(self) -> None:
        """Take no more requests, finish those that were taken, end all threads."""
        self._is_closing = True
        for task in tuple(self._tasks):
            if task.get_name() == "follow":
                task.cancel()
        if self._served is not None:
            await self._retire(self._served)
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=self.config.drain_s)
        self._tokenizing.shutdown(wait=False)

    def _open(self) -> Classifier:
        return Classifier.load(resolve_bundle(self.config.model, self._registry), threads=self.config.threads)

    def _digest_now(self) -> str:
        if self._alias is None:
            raise RegistryError(f"{self.config.model}: is not an alias, so there is nothing to follow")
        if self._registry is None:  # kept: opening the store costs as much as loading a small model
            self._registry = Registry()
        return self._registry.at(*self._alias).digest

    def _install(self, classifier: Classifier) -> None:
        limits = Limits(
            max_batch_tokens=self.config.batching.max_batch_tokens,
            max_batch_rows=self.config.batching.max_batch_rows,
            max_wait_s=self.config.batching.max_wait_ms / 1000,
        )
        batcher = Batcher(classifier.logits, limits, max_queue_tokens=self.config.max_queue_tokens, observer=self.metrics)
        before, self._served = self._served, _Served(classifier, batcher)
        identity = classifier.identity
        self.metrics.watch_queue(lambda: batcher.queued_tokens, lambda: batcher.queued_rows)
        self.metrics.serves(model=identity.name, version=identity.version, digest=identity.digest)
        if before is not None:
            self._spawn(self._retire(before), name="retire")

    async def _retire(self, served: _Served) -> None:
        while served.holders:
            served.is_free.clear()
            await served.is_free.wait()
        await served.batcher.close()

    @contextlib.asynccontextmanager
    async def _hold(self) -> AsyncIterator[_Served]:
        served = self._require()
        served.holders += 1
        try:
            yield served
        finally:
            served.holders -= 1
            if served.holders == 0:
                served.is_free.set()

    def _require(self) -> _Served:
        if self._served is None or self._is_closing:
            raise NotReady("the service is shutting down" if self._is_closing else "the model is still loading")
        return self._served

    def _check_model(self, wanted: str | None, classifier: Classifier) -> None:
        name, version = classifier.identity.name, classifier.identity.version
        if wanted not in (None, name, f"{name}/{version}", self.config.model):
            raise UnknownModel(f"{wanted}: not served here; served is {name}/{version}", field="model")

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self.config.follow_every_s)
            await self.follow_once()

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str = "follow") -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
