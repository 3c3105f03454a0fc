"""Labelled rows are split the same way every time, checked, and named by a fingerprint of their content."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.config import LabelledDataConfig
from corpus.labelled import load_labelled
from corpus.splits import VALIDATION, Shares, held_out
from foundation.errors import DataError


def write(file: Path, *rows: str) -> Path:
    file.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return file


def config(train: Path, **values: object) -> LabelledDataConfig:
    return LabelledDataConfig.model_validate({"train": str(train), **{key: str(value) for key, value in values.items()}})


@given(
    groups=st.lists(st.integers(-1, 4), max_size=200),
    fraction=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_every_class_gives_its_share_and_keeps_some(groups: list[int], fraction: float, seed: int) -> None:
    given_groups = np.array(groups, dtype=np.int64)
    chosen = held_out(given_groups, Shares(fraction), seed) == VALIDATION
    for group, size in Counter(groups).items():
        taken = int(chosen[given_groups == group].sum())
        assert taken < size or size == 0
        if fraction == 0 or size < 4:
            assert taken == 0
        else:
            assert 1 <= taken <= max(1, round(fraction * size))
    assert np.array_equal(chosen, held_out(given_groups, Shares(fraction), seed) == VALIDATION)


def test_a_file_is_split_by_class_and_seed(reviews: Path) -> None:
    data = load_labelled(config(reviews, validation_fraction=0.25))
    assert data.labels == ("bad", "good")
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 0)
    assert np.bincount(data.validation.labels).tolist() == [5, 5]
    assert sorted([*data.train.ids, *data.validation.ids]) == sorted(f"reviews.csv#{row}" for row in range(1, 41))
    again = load_labelled(config(reviews, validation_fraction=0.25))
    assert (again.fingerprint, again.validation.ids) == (data.fingerprint, data.validation.ids)
    other = load_labelled(config(reviews, validation_fraction=0.25, split_seed=1))
    assert other.validation.ids != data.validation.ids
    assert other.fingerprint != data.fingerprint


def test_two_texts_are_enough_to_start_and_the_reader_is_warned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "two.csv", "This is a good product,positive", "This is a bad product,negative")
    data = load_labelled(config(file))
    assert data.train.texts == data.validation.texts == ["This is a good product", "This is a bad product"]
    assert data.train.labels.tolist() == [1, 0]
    assert "no rows to hold back for validation" in capsys.readouterr().err


def test_numbers_as_classes_are_ordered_by_value(tmp_path: Path) -> None:
    file = write(tmp_path / "stars.csv", *(f"text {stars},{stars}" for stars in (10, 9, -1, 2)))
    assert load_labelled(config(file)).labels == ("-1", "2", "9", "10")


def test_a_test_file_uses_the_classes_of_train(reviews: Path, tmp_path: Path) -> None:
    test = write(tmp_path / "test.csv", "one,good", "two,good")
    assert load_labelled(config(reviews, test=test)).test.labels.tolist() == [1, 1]
    bad = write(tmp_path / "bad.csv", "one,good", "two,superb", "three,superb")
    with pytest.raises(DataError, match=r"bad.csv: 'superb': not a label in train \(2 rows: bad.csv#2, bad.csv#3\); train has bad, good"):
        load_labelled(config(reviews, test=bad))


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every row has the label 'good'; a classifier needs at least two classes"):
        load_labelled(config(write(tmp_path / "one.csv", "a,good", "b,good")))


def test_a_row_without_label_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no label in 1 of 2 rows \(gap.csv#2\)"):
        load_labelled(config(write(tmp_path / "gap.csv", "a,good", "b,")))


def test_the_fingerprint_names_content_not_files(reviews: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.csv"
    copy.write_bytes(reviews.read_bytes())
    first, second = load_labelled(config(reviews)), load_labelled(config(copy))
    assert first.fingerprint == second.fingerprint
    copy.write_text(reviews.read_text().replace("number 7", "number seven"))
    assert load_labelled(config(copy)).fingerprint != first.fingerprint
