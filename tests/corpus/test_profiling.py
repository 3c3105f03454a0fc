"""The profile of training rows holds what was counted, in the model's tokens or in words."""

from __future__ import annotations

import numpy as np
import pytest

from corpus import profiling
from corpus.labels import LabelArray, LabelledSplit
from corpus.profiling import profile_of
from foundation.profile import bucket_of, compare, length_bin, word_key


def rows(texts: list[str], labels: LabelArray, pairs: list[str] | None = None) -> LabelledSplit:
    return LabelledSplit(texts, labels, [f"a#{i}" for i in range(len(texts))], pairs)


def test_tokens_are_counted_as_the_model_reads_them() -> None:
    split = rows(["aaa", "b", "cc"], np.array([1, 0, 1]), ["x", "y", "z"])

    def encode(texts: list[str], pairs: list[str] | None) -> list[list[int]]:
        assert pairs == ["x", "y", "z"]
        return [[101, *(7 for _ in text), 102] for text in texts]

    found = profile_of(split, ("no", "yes"), encode)
    assert (found.unit, found.rows, found.labels) == ("tokens", 3, {"no": 1, "yes": 2})
    assert [found.vocabulary[bucket_of(token)] for token in (101, 7, 102)] == [3, 6, 3]
    assert sum(found.vocabulary) == 12
    assert [found.lengths[length_bin(length)] for length in (3, 5)] == [1, 2]


def test_without_a_tokenizer_words_are_counted() -> None:
    found = profile_of(rows(["One two", "two"], np.array([0, 1])), ("no", "yes"), None)
    assert found.unit == "words"
    assert (found.vocabulary[bucket_of(word_key("one"))], found.vocabulary[bucket_of(word_key("two"))]) == (1, 2)
    assert sum(found.lengths) == found.rows == 2


def test_lists_count_for_each_class_and_numbers_by_their_tenths() -> None:
    flags = np.array([[True, True], [True, False], [False, False]])
    assert profile_of(rows(["a", "b", "c"], flags), ("x", "y"), None).labels == {"x": 2, "y": 1}
    numbers = profile_of(rows([f"t {i}" for i in range(100)], np.arange(100) / 3), (), None)
    assert numbers.labels == {str(i): 10 for i in range(10)}
    assert len(numbers.number_edges) == 9
    assert profiling.label_mix(np.array([-1.0, 500.0]), (), numbers.number_edges) == {"0": 1, **{str(i): 0 for i in range(1, 9)}, "9": 1}


def test_of_very_many_rows_a_sample_is_counted_that_is_like_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(["word"] * int(size)) for size in random.integers(1, 60, 3_000)]
    split = rows(texts, np.zeros(3_000, dtype=np.int64))
    whole = profile_of(split, ("only",), None)
    monkeypatch.setattr(profiling, "_ROWS", 1_000)
    sample = profile_of(split, ("only",), None)
    assert (sample.rows, sample.labels) == (1_000, {"only": 3_000})
    assert compare(whole, sample).lengths < 0.01
