"""Two profiles of one source are near, of different ones far, and both fit into a manifest."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from foundation.errors import DataError
from foundation.profile import BUCKETS, LENGTH_EDGES, Profile, bucket_of, compare, divergence, length_bin, profile, word_key

HISTOGRAM = st.lists(st.integers(0, 1_000), min_size=5, max_size=5)


def made(seed: int, *, words: int = 2_000, longest: int = 60, share: float = 0.5) -> Profile:
    random = Random(seed)
    lengths = Counter(random.randint(1, longest) for _ in range(2_000))
    ids = Counter(int(words * random.random() ** 3) for _ in range(40_000))
    labels = Counter("good" if random.random() < share else "bad" for _ in range(2_000))
    return profile("tokens", lengths, ids, labels)


@given(HISTOGRAM, HISTOGRAM)
def test_a_divergence_is_symmetric_and_between_nothing_and_one(first: list[int], second: list[int]) -> None:
    found = divergence(first, second)
    assert 0 <= found <= 1
    assert found == pytest.approx(divergence(second, first))
    assert divergence(first, first) == pytest.approx(0, abs=1e-12)
    assert divergence(first, [2 * count for count in first]) == pytest.approx(0, abs=1e-12)


def test_a_divergence_is_what_its_definition_says() -> None:
    # p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4)
    expected = (math.log2(4 / 3) + (math.log2(2 / 3) + math.log2(2)) / 2) / 2
    assert divergence([7, 0], [5, 5]) == pytest.approx(expected)
    assert divergence([3, 0], [0, 9]) == 1
    assert (divergence([0, 0], [0, 0]), divergence([0, 0], [1, 0])) == (0, 1)


def test_samples_of_one_source_are_near_and_what_drifted_stands_out() -> None:
    first = made(0)
    same = compare(first, made(1))
    assert same.lengths < 0.01
    assert same.vocabulary < 0.02
    assert same.labels is not None
    assert same.labels < 0.01
    longer, others, skewed = compare(first, made(2, longest=200)), compare(first, made(3, words=200)), compare(first, made(4, share=0.95))
    assert longer.lengths > 0.2
    assert others.vocabulary > 0.2
    assert skewed.labels is not None
    assert skewed.labels > 0.1
    assert max(longer.vocabulary, others.lengths) < 0.02


def test_a_profile_survives_json_and_stays_small() -> None:
    first = made(0)
    text = first.model_dump_json(indent=2)
    assert Profile.model_validate_json(text) == first
    assert len(text) < 10_000
    assert len(text.splitlines()) < 20
    assert sum(first.vocabulary) == 40_000


def test_a_profile_of_other_bins_is_refused() -> None:
    tree = made(0).model_dump(mode="json")
    with pytest.raises(ValidationError, match=f"expected {len(LENGTH_EDGES)} length bins and {BUCKETS} buckets"):
        Profile.model_validate(tree | {"lengths": "1 2 3"})
    with pytest.raises(ValidationError):
        Profile.model_validate(tree | {"lengths": "one two"})


def test_what_cannot_be_compared_is_refused() -> None:
    tokens, words = made(0), profile("words", {3: 1}, {word_key("a"): 3}, {})
    with pytest.raises(DataError, match="one is in tokens, the other in words"):
        compare(tokens, words)
    with pytest.raises(DataError, match="one is of no rows"):
        compare(words, profile("words", {}, {}, {}))
    with pytest.raises(DataError, match="other bins"):
        compare(words, profile("words", {3: 1}, {}, {}, [0.5]))
    assert compare(words, words).labels is None


def test_buckets_and_bins_stay_what_they_are() -> None:
    # A bundle holds counts in them: another hash or other edges would make old profiles lies.
    assert [bucket_of(key) for key in (0, 1, 2, 101, 30_521)] == [0, 632, 241, 431, 15]
    assert word_key("café") == 16417751708935026519
    assert [length_bin(length) for length in (0, 3, 4, 127, 128, 10**6)] == [0, 0, 1, 9, 10, 18]
    counts = [0] * BUCKETS
    for key in range(30_522):
        counts[bucket_of(key)] += 1
    assert (min(counts), max(counts)) == (28, 32)  # of a BERT's vocabulary
