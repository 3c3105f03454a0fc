"""The checks find all that was planted, name its rows, and find nothing in clean data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import checks
from corpus.checks import CheckedRows, check, long_texts
from corpus.findings import Finding, refuse
from corpus.labelled_config import ChecksConfig
from corpus.labels import LabelArray, LabelledSplit
from foundation.errors import DataError

ANY = ChecksConfig(smallest_class=1, imbalance_ratio=1e9)
"""Says nothing about the sizes of classes."""


def rows(name: str, texts: Sequence[str], labels: LabelArray | Sequence[int], pairs: list[str] | None = None) -> LabelledSplit:
    return LabelledSplit(list(texts), np.asarray(labels), [f"{name}#{i}" for i in range(len(texts))], pairs)


def found(config: ChecksConfig = ANY, names: Sequence[str] = ("a", "b", "c"), **splits: LabelledSplit) -> dict[str, list[Finding]]:
    by_kind: dict[str, list[Finding]] = {}
    for finding in check({name: CheckedRows.of(split) for name, split in splits.items()}, names, config):
        by_kind.setdefault(finding.kind, []).append(finding)
    return by_kind


@st.composite
def planted(draw: st.DrawFn) -> tuple[dict[str, LabelledSplit], set[str], set[str], set[str]]:
    """Three splits of distinct texts with some copied: the splits, and the ids of conflicting, leaking and repeated rows."""
    count = draw(st.integers(6, 60))
    where = [draw(st.integers(0, 2)) for _ in range(count)]
    labels = [draw(st.integers(0, 2)) for _ in range(count)]
    texts = [f"Text number {i}" for i in range(count)]
    originals = draw(st.lists(st.integers(0, count - 1), max_size=8, unique=True))
    for original in originals:
        where.append(draw(st.integers(0, 2)))
        labels.append(draw(st.integers(0, 2)))
        texts.append(draw(st.sampled_from([f"Text number {original}", f" text  NUMBER\t{original}\n"])))
    ids: list[str] = []
    splits = {}
    for which, name in enumerate(("train", "validation", "test")):
        numbers = [i for i, place in enumerate(where) if place == which]
        splits[name] = rows(name, [texts[i] for i in numbers], np.array([labels[i] for i in numbers], dtype=np.int64))
    seen = [0, 0, 0]
    for place in where:
        ids.append(f"{('train', 'validation', 'test')[place]}#{seen[place]}")
        seen[place] += 1
    expected: tuple[set[str], set[str], set[str]] = (set(), set(), set())
    for copy, original in enumerate(originals, start=count):
        if labels[copy] != labels[original]:
            expected[0].update((ids[copy], ids[original]))
        expected[1 if where[copy] != where[original] else 2].update((ids[copy], ids[original]))
    return splits, *expected


@settings(deadline=None)
@given(planted())
def test_planted_conflicts_leaks_and_duplicates_are_all_found_and_nothing_else(
    case: tuple[dict[str, LabelledSplit], set[str], set[str], set[str]],
) -> None:
    splits, *expected = case
    findings = found(ANY.model_copy(update={"unseen_labels": "ignore", "small_classes": "ignore"}), **splits)
    for kind, ids in zip(("conflicts", "leaks", "duplicates"), expected, strict=True):
        assert {row for finding in findings.get(kind, []) for row in finding.rows} == ids
    assert set(findings) <= {"conflicts", "leaks", "duplicates"}


def test_clean_data_gives_no_finding() -> None:
    train = rows("t", [f"text {i}" for i in range(40)], np.arange(40) % 2)
    test = rows("e", [f"other {i}" for i in range(10)], np.arange(10) % 2)
    assert found(ChecksConfig(), names=("a", "b"), train=train, test=test) == {}


def test_a_conflict_shows_each_label_once_and_names_every_row() -> None:
    (finding,) = found(train=rows("t", ["x", "y", "X ", "x", "y"], [0, 1, 2, 0, 1]))["conflicts"]
    assert finding.message == "1 text has different labels: t#0 (a), t#2 (c)"
    assert finding.rows == ("t#0", "t#2", "t#3")


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (np.array([[1, 0, 1], [1, 0, 1], [0, 0, 0]], dtype=np.bool_), "t#0 (a, c), t#2 (none)"),
        (np.array([0.5, 0.5, -2.25]), "t#0 (0.5), t#2 (-2.25)"),
    ],
    ids=["lists", "numbers"],
)
def test_lists_and_numbers_conflict_when_they_differ(labels: LabelArray, shown: str) -> None:
    (finding,) = found(train=rows("t", ["x"] * 3, labels))["conflicts"]
    assert finding.message == f"1 text has different labels: {shown}"


def test_with_pairs_both_texts_make_a_row_the_same() -> None:
    findings = found(train=rows("t", ["x", "x", "x y"], [0, 1, 0], ["y", "z", ""]), test=rows("e", ["x"], [0], ["Y"]))
    assert set(findings) == {"leaks"}
    assert findings["leaks"][0].rows == ("e#0", "t#0")


def test_a_leak_is_told_for_each_two_splits() -> None:
    findings = found(train=rows("t", ["x", "y"], [0, 0]), validation=rows("v", ["y"], [0]), test=rows("e", ["x", "y"], [0, 0]))["leaks"]
    assert [finding.message for finding in findings] == [
        "1 text stands in train and in validation (validation rows: v#0)",
        "2 texts stand in train and in test (test rows: e#0, e#1)",
        "1 text stands in validation and in test (test rows: e#1)",
    ]


def test_small_classes_and_imbalance_follow_the_limits_of_the_recipe() -> None:
    train = rows("t", [f"text {i}" for i in range(23)], [0] * 20 + [1] * 2 + [2])
    findings = found(ChecksConfig(smallest_class=3, imbalance_ratio=19), train=train)
    assert findings["small_classes"][0].message == "2 classes have fewer than 3 rows in train: c (1), b (2); rows t#20, t#21, t#22"
    assert findings["imbalance"][0].message == "a has 20 rows in train, c 1: more than 19 to 1; rows of c: t#22"
    assert findings["imbalance"][0].rows == ("t#22",)
    assert found(ChecksConfig(smallest_class=1, imbalance_ratio=20), train=train) == {}


def test_a_class_without_training_rows_is_no_imbalance() -> None:
    # It is an unseen label, told by another check.
    assert found(ChecksConfig(smallest_class=1), train=rows("t", ["x", "y", "z"], [1, 1, 1])) == {}


def test_classes_of_lists_are_counted_one_by_one_and_numbers_have_none() -> None:
    flags = np.zeros((20, 2), dtype=np.bool_)
    flags[:, 0], flags[:3, 1] = True, True
    texts = [f"text {i}" for i in range(20)]
    (finding,) = found(ChecksConfig(), names=("a", "b"), train=rows("t", texts, flags))["small_classes"]
    assert finding.rows == ("t#0", "t#1", "t#2")
    assert found(ChecksConfig(), names=(), train=rows("t", texts, np.arange(20) / 3)) == {}


def test_held_out_labels_without_training_rows_and_empty_texts_are_refused_with_their_rows() -> None:
    train, test = rows("t", ["x", " ", "z"], [0, 1, 0]), rows("e", ["q", "r", ""], [2, 0, 2])
    findings = check({name: CheckedRows.of(split) for name, split in (("train", train), ("test", test))}, ("a", "b", "c"), ANY)
    with pytest.raises(DataError) as caught:
        refuse(findings, "data.csv")
    assert str(caught.value).splitlines() == [
        "data.csv: no text in 1 of 3 rows (t#1); fill or remove them",
        "data.csv: no text in 1 of 3 rows (e#2); fill or remove them",
        "data.csv: 'c': not a label in train (2 rows: e#0, e#2); train has a, b",
    ]


@pytest.mark.parametrize("severity", ["refuse", "warn", "ignore"])
def test_the_recipe_says_what_becomes_of_a_finding(severity: str) -> None:
    config = ANY.model_copy(update={"conflicts": severity, "duplicates": "ignore"})
    findings = check({"train": CheckedRows.of(rows("t", ["x", "x"], [0, 1]))}, ("a", "b"), config)
    assert [finding.severity for finding in findings] == ([] if severity == "ignore" else [severity])
    if severity == "refuse":
        with pytest.raises(DataError, match=r"a\.csv: 1 text has different labels"):
            refuse(findings, "a.csv")
    else:
        assert refuse(findings, "a.csv") == findings


def test_texts_over_the_length_are_told_with_what_is_lost() -> None:
    splits = {"train": rows("t", ["w " * 10, "w " * 30], [0, 1]), "test": rows("e", ["w " * 20], [0])}

    def count(texts: Sequence[str], pairs: Sequence[str] | None) -> np.ndarray:
        assert pairs is None
        return np.array([len(text.split()) for text in texts])

    (finding,) = long_texts(splits, count, 15, "warn")
    assert finding.rows == ("t#1", "e#0")
    assert finding.message == (
        "2 of 3 texts (66.7 %) are longer than max_length=15 tokens and lose 33.3 % of all tokens; the longest is t#1 with 30; "
        "rows t#1, e#0"
    )
    assert long_texts(splits, count, 30, "warn") == ()
    assert long_texts(splits, count, 15, "ignore") == ()


def test_of_very_many_texts_a_sample_is_counted_and_the_finding_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_COUNTED_ROWS", 50)
    counted: list[str] = []

    def count(texts: Sequence[str], pairs: Sequence[str] | None) -> np.ndarray:
        counted.extend(texts)
        return np.full(len(texts), 20)

    split = rows("t", [f"text {i}" for i in range(400)], np.zeros(400, dtype=np.int64))
    (finding,) = long_texts({"train": split}, count, 10, "warn")
    assert len(set(counted)) == len(finding.rows) == 50
    assert finding.message.startswith(
        "50 of 50 texts (100.0 %) are longer than max_length=10 tokens and lose 50.0 % of all tokens (of a sample"
    )


def test_a_finding_for_machines_names_the_first_rows_and_counts_all() -> None:
    (finding,) = found(train=rows("t", ["x"] * 50, [0] * 50))["duplicates"]
    assert (finding.as_json()["count"], len(finding.as_json()["rows"]), len(finding.rows)) == (50, 20, 50)
