"""The HTTP edge over a real model: shapes, refusals that name the field, probes, metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from foundation.bundle import Bundle
from serving.config import BatchingConfig, ServiceConfig
from serving.host import ModelHost
from serving.http import create_app
from serving.schema import ClassifyRequest, ClassifyResponse, ModelCard

Talk = Callable[[httpx.AsyncClient], Awaitable[Any]]


def served(bundle: Bundle, talk: Talk, **settings: Any) -> Any:
    """Run ``talk`` against the edge over a started host."""

    async def run() -> Any:
        config = ServiceConfig(model=str(bundle.path), max_texts_per_request=8, max_body_bytes=4000, **settings)
        host = ModelHost(config)
        await host.start()
        app = create_app(host, host.metrics, max_body_bytes=config.max_body_bytes)
        try:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
                return await talk(client)
        finally:
            await host.close()

    return asyncio.run(run())


def post(bundle: Bundle, body: Any, **settings: Any) -> httpx.Response:
    async def talk(client: httpx.AsyncClient) -> httpx.Response:
        if isinstance(body, bytes):
            return await client.post("/v1/classify", content=body)
        return await client.post("/v1/classify", json=body)

    response: httpx.Response = served(bundle, talk, **settings)
    return response


def test_one_text_and_a_list_have_the_shape_that_the_schema_says(bundle: Bundle) -> None:
    answer = ClassifyResponse.model_validate_json(post(bundle, {"inputs": "this is a good product"}).content)
    assert (answer.model, answer.version) == ("reviews", bundle.digest[:12])
    assert [len(result.labels) for result in answer.results] == [3]
    assert (answer.usage.texts, answer.usage.tokens, answer.results[0].truncated) == (1, 7, False)
    several = post(bundle, {"inputs": ["bad", {"text": "this is a good product"}], "top_k": 1, "model": "reviews"}).json()
    assert [len(result["labels"]) for result in several["results"]] == [1, 1]
    assert several["results"][1]["labels"][0] == pytest.approx(answer.results[0].labels[0].model_dump(), abs=1e-4)


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({}, "inputs", "inputs"),
        ({"inputs": []}, "inputs", "at least one"),
        ({"inputs": None}, "inputs", "expected a text"),
        ({"inputs": ["a", 3]}, "inputs.1", "expected a text"),
        ({"inputs": {"text": "a", "pair": "b"}}, "inputs.pair", "unknown field; an input is a text or {"),
        ({"inputs": {"text": "a", "text_pair": 3}}, "inputs.text_pair", "expected a text"),
        ({"inputs": "a", "topk": 1}, "topk", "known fields: inputs, model, top_k"),
        ({"inputs": "a", "top_k": 0}, "top_k", "greater than or equal to 1"),
        ({"inputs": "a", "top_k": "1"}, "top_k", "valid integer"),
        ({"inputs": "a", "threshold": 1.5}, "threshold", "between 0 and 1"),
        ({"inputs": "a", "raw_scores": "yes"}, "raw_scores", "valid boolean"),
        ({"inputs": "good " * 100, "truncate": False}, "inputs.0", "102 tokens"),
        ([1], None, "should be an object"),
        (b"{", None, "not JSON"),
        (b"", None, "not JSON"),
        (b'{"inputs": "\xff"}', None, "byte 12 of the body is not UTF-8"),
        (b'{"inputs": "\\ud800"}', None, "not JSON"),
        (b'{"inputs": "a", "threshold": NaN}', "threshold", "finite"),
    ],
)
def test_bad_input_is_a_422_that_names_the_field(bundle: Bundle, body: Any, field: str | None, message: str) -> None:
    response = post(bundle, body)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error.get("field")) == (422, "validation", field)
    assert message in error["message"]


def test_too_many_texts_and_too_many_bytes_are_413(bundle: Bundle) -> None:
    many = post(bundle, {"inputs": ["a"] * 9})
    assert (many.status_code, many.json()["error"]["field"]) == (413, "inputs")
    declared = post(bundle, {"inputs": "a" * 5000})
    assert declared.status_code == 413

    async def stream(client: httpx.AsyncClient) -> httpx.Response:
        async def parts() -> Any:
            for _ in range(100):
                yield b"a" * 100

        return await client.post("/v1/classify", content=parts())

    assert served(bundle, stream).status_code == 413


def test_another_model_than_the_served_one_is_404(bundle: Bundle) -> None:
    response = post(bundle, {"inputs": "a", "model": "other"})
    assert (response.status_code, response.json()["error"]["field"]) == (404, "model")


def test_a_full_queue_is_429_with_retry_after_and_recovers(bundle: Bundle) -> None:
    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        crowd = await asyncio.gather(*(client.post("/v1/classify", json={"inputs": ["a good product"] * 8}) for _ in range(20)))
        return [*crowd, await client.post("/v1/classify", json={"inputs": "good"})]

    settings = {"max_queue_tokens": 60, "batching": BatchingConfig(max_batch_tokens=16)}
    *crowd, last = served(bundle, talk, **settings)
    statuses = {response.status_code for response in crowd}
    assert statuses == {200, 429}
    refused = next(response for response in crowd if response.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "overloaded"
    assert last.status_code == 200


def test_a_request_that_takes_too_long_is_504(bundle: Bundle) -> None:
    response = post(bundle, {"inputs": ["good product"] * 8}, request_timeout_s=0.000001)
    assert (response.status_code, response.json()["error"]["type"]) == (504, "timeout")


def test_probes_models_docs_and_unknown_routes(bundle: Bundle) -> None:
    async def talk(client: httpx.AsyncClient) -> dict[str, httpx.Response]:
        return {path: await client.get(path) for path in ("/livez", "/readyz", "/v1/models", "/docs", "/openapi.json", "/nowhere")}

    found = served(bundle, talk)
    assert {path: response.status_code for path, response in found.items()} == {
        "/livez": 200,
        "/readyz": 200,
        "/v1/models": 200,
        "/docs": 200,
        "/openapi.json": 200,
        "/nowhere": 404,
    }
    card = found["/v1/models"].json()["models"][0]
    assert (card["model"], card["digest"], card["max_length"], card["labels"]) == (
        "reviews",
        bundle.digest,
        64,
        ["negative", "neutral", "positive"],
    )
    document = found["/openapi.json"].json()
    assert document["components"]["schemas"]["ClassifyRequest"]["properties"]["top_k"]
    assert "GET /nowhere" in found["/nowhere"].json()["error"]["message"]


def test_metrics_count_requests_tokens_padding_and_name_the_model(bundle: Bundle) -> None:
    async def talk(client: httpx.AsyncClient) -> str:
        await client.post("/v1/classify", json={"inputs": ["good", "this is a very good product"]})
        await client.post("/v1/classify", json={"inputs": []})
        return (await client.get("/metrics")).text

    page = served(bundle, talk)
    assert 'raybert_requests_total{route="/v1/classify",status="200"} 1.0' in page
    assert 'raybert_requests_total{route="/v1/classify",status="422"} 1.0' in page
    assert "raybert_texts_total 2.0" in page
    assert "raybert_tokens_total 11.0" in page
    assert "raybert_padded_tokens_total 16.0" in page
    assert "raybert_batch_rows_sum 2.0" in page
    assert "raybert_queue_tokens 0.0" in page
    assert f'raybert_model_info{{digest="{bundle.digest}",model="reviews",version="{bundle.digest[:12]}"}} 1.0' in page
    assert "raybert_request_seconds_bucket" in page


def test_a_failing_data_plane_is_a_500_that_is_counted_and_tells_no_secrets() -> None:
    from serving.metrics import Metrics

    class Broken:
        is_ready = False

        async def classify(self, request: ClassifyRequest) -> ClassifyResponse:
            raise RuntimeError("password is 1234")

        def models(self) -> list[ModelCard]:
            return []

    metrics = Metrics()

    async def run() -> tuple[httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(create_app(Broken(), metrics, max_body_bytes=100))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.post("/v1/classify", json={"inputs": "a"}), await client.get("/readyz")

    failed, not_ready = asyncio.run(run())
    assert failed.status_code == 500
    assert "1234" not in failed.text
    assert json.loads(failed.text)["error"]["type"] == "internal"
    assert not_ready.status_code == 503
    assert 'status="500"' in metrics.page().decode()
