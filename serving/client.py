"""Ask a served classifier from Python. Needs httpx and pydantic, neither torch nor ray.

    with Client("http://127.0.0.1:8000") as client:
        print(client.classify(["This is a good product"]).results[0].labels[0])

A refused request raises ``RefusedError`` with the status and the server's message; no service at the address raises ``UnreachableError``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import httpx
from pydantic import ValidationError

from foundation.errors import ServiceError
from serving.schema import ClassifyResponse, ErrorResponse, ModelCard, ModelList

DEFAULT_URL = "http://127.0.0.1:8000"
Texts = str | Sequence[str | tuple[str, str]]
"""One text, or a sequence of texts and of pairs (text, text pair) that are read together."""
_RETRIED = frozenset({429, 503})
_LONGEST_PAUSE_S = 30.0


class UnreachableError(ServiceError):
    """Nothing answers at the URL, or not in time."""


class RefusedError(ServiceError):
    """The service answered with an error.

    ``status`` is the HTTP status, ``field`` the part of the request that is wrong, ``retry_after_s`` the server's advice where it gave one.
    """

    def __init__(self, message: str, status: int = 0, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.field = field
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.status, self.field, self.retry_after_s)


class _Protocol:
    """What both clients share: how a question is written, how an answer is read, how long to pause before asking again."""

    def __init__(self, url: str, retries: int) -> None:
        self.url = url.rstrip("/")
        self._retries = retries

    @staticmethod
    def _question(texts: Texts, options: dict[str, Any]) -> dict[str, Any]:
        inputs = texts if isinstance(texts, str) else [_written(text) for text in texts]
        return {"inputs": inputs} | {key: value for key, value in options.items() if value is not None}

    def _read(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        try:
            detail = ErrorResponse.model_validate_json(response.content).error
            message, field = detail.message, detail.field
        except ValidationError:
            message, field = response.text.strip()[:200] or response.reason_phrase, None
        after = response.headers.get("retry-after", "")
        retry_after_s = float(after) if after.isdigit() else None
        raise RefusedError(f"{self.url} answered {response.status_code}: {message}", response.status_code, field, retry_after_s)

    def _unreachable(self, error: httpx.HTTPError) -> UnreachableError:
        if isinstance(error, httpx.TimeoutException):
            return UnreachableError(f"{self.url}: no answer in time; the service is busy or stuck, see `raybert serve status`")
        return UnreachableError(f"{self.url}: no service answers here ({error}); start one with `raybert serve up`, or give its --url")

    def _pause_s(self, error: RefusedError, attempt: int) -> float | None:
        """Seconds before the next try; None when there is none."""
        if error.status not in _RETRIED or attempt >= self._retries:
            return None
        wanted = error.retry_after_s if error.retry_after_s is not None else 0.2 * 2**attempt
        # Spread, so that clients that were refused together do not come back together.
        return min(_LONGEST_PAUSE_S, wanted) * random.uniform(1.0, 1.25)


def _written(text: str | tuple[str, str]) -> str | dict[str, str]:
    return text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}


class Client(_Protocol):
    """A synchronous client; safe to share between threads.

    Args:
        url: The service's base URL.
        timeout_s: For one try.
        retries: Further tries after 429 and 503, honouring Retry-After. Default: none.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout_s: float = 60.0, retries: int = 0) -> None:
        super().__init__(url, retries)
        self._http = httpx.Client(base_url=self.url, timeout=timeout_s)

    def classify(
        self,
        texts: Texts,
        *,
        model: str | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        raw_scores: bool | None = None,
        truncate: bool | None = None,
    ) -> ClassifyResponse:
        """Classify one text or several, (text, text pair) among them; what is None is left to the service.

        Raises:
            RefusedError: The service answered with an error.
            UnreachableError: Nothing answers.
        """
        options = {"model": model, "top_k": top_k, "threshold": threshold, "raw_scores": raw_scores, "truncate": truncate}
        response = self._send("POST", "/v1/classify", self._question(texts, options))
        return ClassifyResponse.model_validate_json(response.content)

    def models(self) -> list[ModelCard]:
        """What is served. Errors as in ``classify``."""
        return ModelList.model_validate_json(self._send("GET", "/v1/models").content).models

    def is_ready(self) -> bool:
        """Whether a model answers at the URL."""
        try:
            self._send("GET", "/readyz")
        except ServiceError:
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        attempt = 0
        while True:
            try:
                return self._read(self._http.request(method, path, json=body))
            except httpx.HTTPError as error:
                raise self._unreachable(error) from None
            except RefusedError as error:
                pause_s = self._pause_s(error, attempt)
                if pause_s is None:
                    raise
            time.sleep(pause_s)
            attempt += 1


class AsyncClient(_Protocol):
    """An asynchronous client; arguments, answers and errors as in ``Client``."""

    def __init__(self, url: str = DEFAULT_URL, *, timeout_s: float = 60.0, retries: int = 0) -> None:
        super().__init__(url, retries)
        self._http = httpx.AsyncClient(base_url=self.url, timeout=timeout_s)

    async def classify(
        self,
        texts: Texts,
        *,
        model: str | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        raw_scores: bool | None = None,
        truncate: bool | None = None,
    ) -> ClassifyResponse:
        """Classify one text or several; see ``Client.classify``."""
        options = {"model": model, "top_k": top_k, "threshold": threshold, "raw_scores": raw_scores, "truncate": truncate}
        response = await self._send("POST", "/v1/classify", self._question(texts, options))
        return ClassifyResponse.model_validate_json(response.content)

    async def models(self) -> list[ModelCard]:
        """What is served."""
        return ModelList.model_validate_json((await self._send("GET", "/v1/models")).content).models

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        attempt = 0
        while True:
            try:
                return self._read(await self._http.request(method, path, json=body))
            except httpx.HTTPError as error:
                raise self._unreachable(error) from None
            except RefusedError as error:
                pause_s = self._pause_s(error, attempt)
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)
            attempt += 1
