"""Looking at data: what would be read, what a build did, and what the cache holds."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from corpus import report
from corpus.build import apply
from corpus.config import DataConfig, SourceConfig
from corpus.planning import plan
from corpus.stages import map_here
from corpus.survey import survey
from foundation.errors import DataError

Recipe = Callable[..., DataConfig]


class Page(HTMLParser):
    """Collects the texts of a page, and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_report_shows_counters_and_examples_and_fetches_nothing(recipe_for: Recipe, reviews: Path) -> None:
    reviews.write_text(reviews.read_text() + '"a",good\n"<b>&",bad\n"<b>&",bad\n')
    config = recipe_for(cleaning={"min_characters": 2}, validation_fraction=0)
    manifest = apply(plan(config, Path(config.tokenizer)), map_here)
    page = Page()
    page.feed(report.page(manifest, "Data build <one>"))
    shown = " ".join(page.texts)
    for part in (
        "too short: 1",
        "exact duplicate: 2",
        "reviews.csv#41: a",
        "reviews.csv#43: <b>&",
        "Data build <one>",
        "2 classes: bad, good",
    ):
        assert part in shown
    assert page.fetched == []
    told = report.text(manifest, with_examples=True)
    assert "    exact duplicate: reviews.csv#40: text number 38 is here" in told
    assert "packed train: " in told


def test_a_survey_tells_columns_counts_lengths_and_first_rows(reviews: Path, tokenizer_folder: Path) -> None:
    found = survey(SourceConfig(path=str(reviews), label_column="label"), tokenizer_folder=tokenizer_folder, shown=3)
    assert (found.columns, found.rows, found.empty, found.files) == (("text", "label"), 40, 0, {"reviews.csv": 40})
    assert found.labels == {"bad": 21, "good": 19}
    assert found.characters["100"] == len("text number 38 is here")
    assert found.tokens is not None
    assert found.tokens["100"] == len("textnumber38ishere")
    assert [row["id"] for row in found.first] == ["reviews.csv#1", "reviews.csv#2", "reviews.csv#3"]
    assert "columns:    text, label" in found.text()
    with pytest.raises(DataError, match="no column 'review'; it has text, label"):
        survey(SourceConfig(path=str(reviews), text_column="review"), tokenizer_folder=None, shown=3)


def test_a_survey_tells_the_label_mix_and_what_is_odd(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    rows = ["same,a|b,2", "Same,b,1", "copy,a,3", "copy,a,3", "no label,,1", ",b,1"]
    file.write_text("text,tags,stars\n" + "\n".join(rows) + "\n")
    found = survey(
        SourceConfig(path=str(file), label_column="tags", label_kind="list", label_separator="|"), tokenizer_folder=None, shown=2
    )
    assert (found.labels, found.unlabelled, found.empty, found.splits) == ({"a": 3, "b": 3}, 1, 1, {"train": 5})
    by_kind = {finding["kind"]: finding for finding in found.findings}
    assert set(by_kind) == {"empty_texts", "conflicts", "duplicates", "small_classes"}
    assert by_kind["conflicts"]["rows"] == ["rows.csv#1", "rows.csv#2"]
    assert "labels:     a 3, b 3" in found.text()
    assert "conflicts: 1 text has different labels: rows.csv#1 (a, b), rows.csv#2 (b)" in found.text()
    numbers = survey(SourceConfig(path=str(file), label_column="stars", label_kind="number"), tokenizer_folder=None, shown=2)
    assert numbers.numbers is not None
    assert (numbers.labels, numbers.numbers["0"], numbers.numbers["50"], numbers.numbers["100"]) == (None, 1, 1.5, 3)
    assert "labels:     1 to 3; " in numbers.text()


def test_a_report_tells_kinds_and_findings(recipe_for: Recipe, reviews: Path) -> None:
    manifest = apply(plan(recipe_for(), Path(recipe_for().tokenizer)), map_here)
    shown = report.text(manifest)
    assert "labelled: train 36, validation 4, test 0; 2 classes: bad, good" in shown
    found = manifest.findings[0]
    assert f"{found.kind}: {found.message}" in shown
    assert found.message in report.page(manifest, "Build")
