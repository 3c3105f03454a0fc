"""The client: light to import, typed answers, typed errors, retries only where asked for."""

from __future__ import annotations

import asyncio
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable

import httpx
import pytest

from serving.client import AsyncClient, Client, RefusedError, UnreachableError

ANSWER = {
    "model": "reviews",
    "version": "3",
    "results": [{"labels": [{"label": "positive", "score": 0.9}], "tokens": 4, "truncated": False}],
    "usage": {"texts": 1, "tokens": 4},
}
FULL = {"error": {"message": "full", "type": "overloaded"}}


def over(respond: Callable[[httpx.Request], httpx.Response], retries: int = 0) -> Client:
    client = Client("http://service", retries=retries)
    client._http = httpx.Client(base_url="http://service", transport=httpx.MockTransport(respond))
    return client


def test_importing_the_client_loads_neither_torch_nor_ray_nor_a_server() -> None:
    code = (
        "import sys, serving.client; print([m for m in ('torch', 'ray', 'transformers', 'numpy', 'fastapi', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_an_answer_is_typed_and_only_what_was_said_is_sent() -> None:
    sent = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append(request.content)
        return httpx.Response(200, json=ANSWER)

    with over(respond) as client:
        answer = client.classify(["a", "b"], top_k=1)
    assert (answer.version, answer.results[0].labels[0].label) == ("3", "positive")
    assert sent == [b'{"inputs":["a","b"],"top_k":1}']


def test_a_refusal_carries_status_field_and_the_servers_message_and_survives_pickling() -> None:
    error = {"error": {"message": "top_k: too small", "type": "validation", "field": "top_k"}}
    with over(lambda _: httpx.Response(422, json=error)) as client, pytest.raises(RefusedError, match="422: top_k: too small") as refused:
        client.classify("a")
    copy = pickle.loads(pickle.dumps(refused.value))
    assert (copy.status, copy.field, str(copy)) == (422, "top_k", str(refused.value))


def test_an_error_that_is_not_ours_is_still_one_message() -> None:
    with (
        over(lambda _: httpx.Response(502, text="<html>bad gateway")) as client,
        pytest.raises(RefusedError, match="502: <html>bad gateway"),
    ):
        client.classify("a")


def test_nothing_is_retried_unless_asked_for_and_then_retry_after_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    replies = [
        httpx.Response(429, json=FULL, headers={"Retry-After": "7"}),
        httpx.Response(503, json=FULL),
        httpx.Response(200, json=ANSWER),
    ]
    with over(lambda _: httpx.Response(429, json=FULL, headers={"Retry-After": "7"})) as client, pytest.raises(RefusedError) as refused:
        client.classify("a")
    assert (refused.value.retry_after_s, pauses) == (7.0, [])
    with over(lambda _: replies.pop(0), retries=2) as client:
        assert client.classify("a").version == "3"
    assert len(pauses) == 2
    assert 7.0 <= pauses[0] <= 8.75


def test_bad_input_is_never_retried() -> None:
    calls = []
    with over(lambda request: calls.append(request) or httpx.Response(422, json=FULL), retries=5) as client, pytest.raises(RefusedError):
        client.classify("a")
    assert len(calls) == 1


def test_no_service_is_one_clear_message_in_both_clients() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url) as client, pytest.raises(UnreachableError, match="no service answers here"):
            client.classify("a")

        async def ask() -> None:
            async with AsyncClient(url) as client:
                await client.classify("a")

        with pytest.raises(UnreachableError, match="no service answers here"):
            asyncio.run(ask())
