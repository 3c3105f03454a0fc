"""The HTTP edge: a plain FastAPI application over a data plane. Knows status codes and JSON; no model, no queue, no Ray.

Every refusal is ``{"error": {"message", "type", "field"?}}``, and the message names the field.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import InvalidRequest, NotReady, RequestError, TooLarge
from serving.metrics import Metrics
from serving.schema import ClassifyRequest, ClassifyResponse, ErrorDetail, ErrorResponse, ModelCard, ModelList

log = logging.getLogger(__name__)


class DataPlane(Protocol):
    """What the edge stands on; ``serving.host.ModelHost`` is one."""

    @property
    def is_ready(self) -> bool:
        """Whether a model answers."""

    async def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """Answer, or raise a ``RequestError``."""

    def models(self) -> list[ModelCard]:
        """What is served, or ``NotReady``."""


def create_app(plane: DataPlane, metrics: Metrics, *, max_body_bytes: int, close: Callable[[], Awaitable[None]] | None = None) -> FastAPI:
    """Build the application.

    Args:
        plane: Answers.
        metrics: Counts; its page is ``/metrics``.
        max_body_bytes: Longer bodies get 413 before they are read to the end.
        close: Awaited when the server shuts the application down.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if close is not None:
            await close()

    app = FastAPI(title="raybert", description="Text classification.", version="1", redoc_url=None, lifespan=lifespan)

    @app.exception_handler(RequestError)
    async def refuse(request: Request, error: RequestError) -> Response:
        headers = {} if error.retry_after_s is None else {"Retry-After": str(round(error.retry_after_s))}
        return _error(error.status, error.message, error.kind, error.field, headers)

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}", "http", None, dict(error.headers or {}))

    app.add_middleware(_Counted, metrics=metrics)
    refusals: dict[int | str, dict[str, Any]] = {code: {"model": ErrorResponse} for code in (400, 404, 413, 422, 429, 503, 504)}
    schema = {"$ref": "#/components/schemas/ClassifyRequest"}
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}

    @app.post("/v1/classify", response_model=ClassifyResponse, responses=refusals, openapi_extra=body, tags=["classify"])
    async def classify(request: Request) -> Response:
        """Classify one text or several; results are in the order of the inputs."""
        answer = await plane.classify(_parse(await _read(request, max_body_bytes)))
        metrics.answered(texts=answer.usage.texts)
        return Response(answer.model_dump_json(), media_type="application/json")

    @app.get("/v1/models", response_model=ModelList, responses={503: {"model": ErrorResponse}}, tags=["models"])
    async def models() -> ModelList:
        """What is served, with its version, labels and lineage."""
        return ModelList(models=plane.models())

    @app.get("/livez", tags=["probes"])
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: {"model": ErrorResponse}}, tags=["probes"])
    async def readyz() -> dict[str, str]:
        """A model is loaded, checked and warm."""
        if not plane.is_ready:
            raise NotReady("no model answers yet")
        return {"status": "ready"}

    @app.get("/metrics", tags=["probes"], response_class=Response)
    async def page() -> Response:
        """Prometheus metrics of the replica that answers."""
        return Response(metrics.page(), media_type=metrics.content_type)

    _describe_request(app)
    return app


class _Counted:
    """Counts every request, and turns what nobody caught into a 500. Plain ASGI: a client that hangs up still cancels its request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s, status = time.perf_counter(), 0

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_status)
        except Exception as error:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                answer = _error(500, f"{type(error).__name__}; the service's log says more", "internal", None, {})
                await answer(scope, receive, noting_status)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            # 499: the client hung up, so no status was sent (nginx's number for it).
            self._metrics.request(route=route, status=status or 499, seconds=time.perf_counter() - started_s)


async def _read(request: Request, max_body_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_body_bytes:
        raise TooLarge(f"the body has {declared} bytes, at most {max_body_bytes} are taken; send fewer texts at a time")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_body_bytes:
            raise TooLarge(f"the body has more than {max_body_bytes} bytes; send fewer texts at a time")
        chunks.append(chunk)
    return b"".join(chunks)


def _parse(body: bytes) -> ClassifyRequest:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"byte {error.start} of the body is not UTF-8; send JSON in UTF-8") from None
    try:
        return ClassifyRequest.model_validate_json(text)
    except ValidationError as error:
        first = _clearest(error)
        field = ".".join(str(part) for part in first["loc"] if not _is_union_branch(part)) or None
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "json_invalid":
            raise InvalidRequest(f"the body is not JSON: {message}") from None
        if field and field.startswith("inputs"):
            message = 'expected a text, {"text": …, "text_pair": …}, or a list of at least one of these'
            if first["type"] == "extra_forbidden":
                message = 'unknown field; an input is a text or {"text": …, "text_pair": …}'
        elif first["type"] == "extra_forbidden":
            message = f"unknown field; known fields: {', '.join(ClassifyRequest.model_fields)}"
        raise InvalidRequest(f"{field}: {message}" if field else message, field=field) from None


def _clearest(error: ValidationError) -> Any:
    # Of a union pydantic reports every branch that failed; the one that went deepest is the one that was meant.
    return max(error.errors(include_url=False, include_context=False), key=lambda item: len(item["loc"]))


def _is_union_branch(part: int | str) -> bool:
    return isinstance(part, str) and (part in ("str", "TextInput") or part.startswith(("list[", "constrained", "function-")))


def _error(status: int, message: str, kind: str, field: str | None, headers: dict[str, str]) -> Response:
    detail = ErrorResponse(error=ErrorDetail(message=message, type=kind, field=field))
    return JSONResponse(json.loads(detail.model_dump_json(exclude_none=True)), status_code=status, headers=headers)


def _describe_request(app: FastAPI) -> None:
    """Put the request's schema into the OpenAPI document; the route reads its body itself, so FastAPI does not know it."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        schema = ClassifyRequest.model_json_schema(ref_template="#/components/schemas/{model}")
        known = document.setdefault("components", {}).setdefault("schemas", {})
        known.update(schema.pop("$defs", {}))
        known["ClassifyRequest"] = schema
        return document

    app.openapi = openapi  # type: ignore[method-assign]
