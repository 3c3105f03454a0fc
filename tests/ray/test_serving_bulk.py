"""Batch inference on a real Ray: every row once, in order, next to the columns that it had."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.session import session
from foundation.bundle import Bundle
from foundation.errors import RunError
from serving.bulk import examine, run
from serving.classifier import Classifier
from tests.support.tiny import make_classifier_bundle

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_classifier_bundle(tmp_path_factory.mktemp("bulk") / "reviews")


@pytest.fixture(scope="module", autouse=True)
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = dict(os.environ)  # a session sets what Ray reads from there
    os.environ["RAYBERT_HOME"] = str(tmp_path_factory.mktemp("home"))
    try:
        with session(cpus=1):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_a_csv_keeps_its_columns_as_text_and_its_order(bundle: Bundle, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    rows = [{"id": f"{number:04d}", "review": f'{"good" if number % 3 else "bad"} "product",\nnumber {number}'} for number in range(400)]
    with source.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "review"])
        writer.writeheader()
        writer.writerows(rows)
    done: list[int] = []
    result = run(examine(source, target, text_column="review"), str(bundle.path), actors=min(2, os.cpu_count() or 1), report=done.append)
    with target.open(newline="", encoding="utf-8") as file:
        scored = list(csv.DictReader(file))
    assert [{"id": row["id"], "review": row["review"]} for row in scored] == rows
    assert (result.rows, sum(result.labels.values()), done[-1]) == (400, 400, 400)
    classifier = Classifier.open(str(bundle.path))
    for row, found in zip(scored[:50], classifier.classify([row["review"] for row in rows[:50]]), strict=True):
        assert (row["label"], float(row["score"])) == (found.labels[0].label, pytest.approx(found.labels[0].score, abs=1e-4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_json_lines_keep_their_fields(bundle: Bundle, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"text": "schön good", "tags": ["a"], "at": "2024-01-01T00:00:00"}, {"text": "bad", "other": None}]
    source.write_text("\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    run(examine(source, target, prefix="predicted_"), str(bundle.path), actors=1)
    scored = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [{key: row[key] for key in line} for row, line in zip(scored, lines, strict=True)] == lines
    assert all(row["predicted_label"] in ("negative", "positive") and 0.5 <= row["predicted_score"] <= 1 for row in scored)


def test_a_failure_leaves_no_part_of_an_output(bundle: Bundle, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "good"}\n', encoding="utf-8")
    plan = examine(source, target)
    with pytest.raises(RunError, match=r"nothing was written: .*raybert\.json"):
        run(plan, str(tmp_path), actors=1)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
