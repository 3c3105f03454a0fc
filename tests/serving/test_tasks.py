"""Models of every task are served: what they answer over HTTP, to a file, and how pairs reach them."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from foundation.bundle import Bundle, GoldenRequest, reseal
from foundation.errors import BundleError
from serving.bulk import Scorer, examine
from serving.classifier import Classifier
from serving.client import Client
from serving.config import ServiceConfig
from serving.host import ModelHost
from serving.http import create_app
from tests.support.tiny import make_classifier_bundle, make_roberta_encoder

TAGS = ("fast", "good", "slow")
PAIRS = [("this is good", "is it a good movie?"), ("a bad plot", "the best music of the end")]


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A multi-label model whose first label always applies, and whose last never does."""
    folder = tmp_path_factory.mktemp("tasks") / "tags"
    return make_classifier_bundle(folder, TAGS, task="multi_label", thresholds={"fast": 0.0, "slow": 1.0})


@pytest.fixture(scope="module")
def stars(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A regression on pairs."""
    return make_classifier_bundle(tmp_path_factory.mktemp("tasks") / "stars", ["stars"], task="regression", takes_pairs=True, spread=50)


def post(bundle: Bundle, body: dict[str, Any], route: str = "/v1/classify") -> dict[str, Any]:
    """What a started host answers; without a body the route is read."""

    async def run() -> dict[str, Any]:
        host = ModelHost(ServiceConfig(model=str(bundle.path)))
        await host.start()
        try:
            transport = httpx.ASGITransport(create_app(host, host.metrics, max_body_bytes=4000))
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                response = await (client.post(route, json=body) if body else client.get(route))
        finally:
            await host.close()
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    return asyncio.run(run())


def test_a_multi_label_model_gives_independent_scores_and_decides_by_its_own_thresholds(tagged: Bundle) -> None:
    from transformers import pipeline

    (result,) = post(tagged, {"inputs": "this is a good product"})["results"]
    scores = {item["label"]: item["score"] for item in result["labels"]}
    reference = pipeline("text-classification", model=str(tagged.path), top_k=None, device="cpu")
    assert scores == pytest.approx({item["label"]: item["score"] for item in reference(["this is a good product"])[0]}, abs=1e-4)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    wanted = {"fast"} | ({"good"} if scores["good"] >= 0.5 else set())
    assert (set(result["predicted"]), "slow" in result["predicted"]) == (wanted, False)
    cut = post(tagged, {"inputs": "this is a good product", "top_k": 1, "threshold": 1.0, "raw_scores": True})["results"][0]
    assert (len(cut["labels"]) <= 1, cut["predicted"]) == (True, result["predicted"])


def test_a_regression_answers_its_value_and_decides_no_label(stars: Bundle) -> None:
    golden = stars.manifest.golden[0]
    body = {"inputs": [{"text": golden.text, "text_pair": golden.text_pair}]}
    for more in ({}, {"raw_scores": True}):
        (result,) = post(stars, body | more)["results"]
        assert result["predicted"] == []
        assert result["labels"] == [{"label": "stars", "score": pytest.approx(golden.scores["stars"], rel=1e-4)}]
    assert not 0 <= golden.scores["stars"] <= 1


def test_a_single_label_model_decides_for_its_best_label(bundle: Bundle) -> None:
    (result,) = post(bundle, {"inputs": "this is a good product"})["results"]
    assert result["predicted"] == [result["labels"][0]["label"]]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_pairs_and_single_texts_share_a_request_and_score_as_the_pipeline_does(family: str, tmp_path: Path) -> None:
    from transformers import pipeline

    encoder = {"bert": None, "roberta": make_roberta_encoder}[family]
    made = make_classifier_bundle(tmp_path / "pairs", takes_pairs=True, encoder=encoder)
    reference = pipeline("text-classification", model=str(made.path), top_k=None, device="cpu")
    inputs = [{"text": first, "text_pair": second} for first, second in PAIRS]
    results = post(made, {"inputs": [inputs[0], "good", inputs[1]]})["results"]
    for asked, found in zip([inputs[0], "good", inputs[1]], results, strict=True):
        wanted = reference(asked)
        wanted = {item["label"]: item["score"] for item in (wanted[0] if isinstance(wanted[0], list) else wanted)}
        assert {item["label"]: item["score"] for item in found["labels"]} == pytest.approx(wanted, abs=1e-4)


def test_the_model_card_says_task_thresholds_and_pairs(tagged: Bundle, stars: Bundle) -> None:
    (card,) = post(tagged, {}, "/v1/models")["models"]
    assert (card["task"], card["takes_pairs"]) == ("multi_label", False)
    assert card["thresholds"] == {"fast": 0.0, "good": 0.5, "slow": 1.0}
    (card,) = post(stars, {}, "/v1/models")["models"]
    assert (card["task"], card["takes_pairs"], card["thresholds"]) == ("regression", True, None)


def test_golden_pairs_are_repeated_as_pairs(stars: Bundle, tmp_path: Path) -> None:
    copied = tmp_path / "stars"
    shutil.copytree(stars.path, copied)
    drifted = Bundle(path=copied, manifest=stars.manifest)
    golden = stars.manifest.golden[0]
    reseal(drifted, golden=(GoldenRequest(text=golden.text, scores=golden.scores),))
    with pytest.raises(BundleError, match="golden request 'this is a good product': stars scores"):
        Classifier.open(str(copied))


def test_the_client_writes_a_pair_as_an_object_and_a_tuple_of_texts_as_texts() -> None:
    assert Client._question([("a", "b"), "c"], {}) == {"inputs": [{"text": "a", "text_pair": "b"}, "c"]}
    assert Client._question(("a", "b"), {"top_k": 1}) == {"inputs": ["a", "b"], "top_k": 1}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_files_rows_get_lists_of_a_multi_label_model(kind: str, tagged: Bundle, tmp_path: Path) -> None:
    texts = ["good fast", "a slow plot"]
    found = scored(tagged, tmp_path, kind, {"text": texts})
    scores, predicted = Classifier.open(str(tagged.path)).score(texts)
    assert [row["label"] for row in found] == [list(labels) for labels in predicted]
    for row, scores_C, labels in zip(found, scores, predicted, strict=True):
        assert row["score"] == pytest.approx([scores_C[TAGS.index(label)] for label in labels])
        assert row["raybert_given"] == list(labels)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_files_pairs_get_the_value_of_a_regression(kind: str, stars: Bundle, tmp_path: Path) -> None:
    found = scored(stars, tmp_path, kind, {"text": [first for first, _ in PAIRS], "question": [second for _, second in PAIRS]}, "question")
    wanted = Classifier.open(str(stars.path)).model.score(PAIRS)[:, 0]
    np.testing.assert_allclose([row["score"] for row in found], wanted, rtol=1e-6)
    assert all("label" not in row for row in found)


def scored(bundle: Bundle, folder: Path, kind: str, columns: dict[str, list[str]], pair_column: str | None = None) -> list[dict[str, Any]]:
    """What one worker of ``raybert classify`` makes of a file, lists read back from a CSV's text."""
    from pyarrow import csv, parquet

    source, table = folder / f"in.{kind}", pa.table(columns)
    if kind == "csv":
        csv.write_csv(table, source)
    elif kind == "parquet":
        parquet.write_table(table, source)
    else:
        source.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
        table = pa.table({"raybert_line": [json.dumps(row) for row in table.to_pylist()]})
    plan = examine(source, folder / f"out.{kind}", pair_column=pair_column)
    answered = Scorer(str(bundle.path), plan, 1)(table).to_pylist()
    if kind == "jsonl":
        return [json.loads(row["raybert_line"]) | {"raybert_given": row["raybert_given"]} for row in answered]
    if kind == "parquet":
        return answered
    as_text = {"label", "score"} if bundle.manifest.task == "multi_label" else set()
    return [{name: json.loads(value) if name in as_text else value for name, value in row.items()} for row in answered]
