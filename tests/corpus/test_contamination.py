"""A document that shares a long run of words with an evaluation text is found, in any partition; chance phrases are not."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.contamination import EvaluationIndex, contaminated, grams, matching_words
from corpus.words import split_words

TEXTS = st.lists(st.lists(st.sampled_from("ab"), max_size=14).map(" ".join), max_size=6)


def numbered(first: int, last: int) -> str:
    return " ".join(f"w{i}" for i in range(first, last))


def plainly_contaminated(text: str, evaluation: list[str], n: int) -> bool:
    words = split_words(text)
    for tested in map(split_words, evaluation):
        length = min(n, len(tested))
        runs = {tuple(tested[i : i + length]) for i in range(len(tested) - length + 1)} if tested else set()
        if length < min(n, 8):
            if tested and words == tested:
                return True
        elif any(tuple(words[i : i + length]) in runs for i in range(len(words) - length + 1)):
            return True
    return False


@given(TEXTS, TEXTS, st.integers(1, 12))
def test_documents_are_judged_as_by_the_plain_loop(texts: list[str], evaluation: list[str], n: int) -> None:
    index = grams(evaluation, n)
    found = contaminated(texts, index)
    assert found.tolist() == [plainly_contaminated(text, evaluation, n) for text in texts]
    assert [matching_words(text, index) is not None for text in texts] == found.tolist()


def test_thirteen_words_in_a_row_are_found_anywhere_and_twelve_are_not() -> None:
    index = grams([numbered(0, 40)])
    texts = [f"before {numbered(20, 33)} after", f"before {numbered(20, 32)} after", f"{numbered(20, 26)} gap {numbered(26, 33)}"]
    assert contaminated(texts, index).tolist() == [True, False, False]


def test_case_and_punctuation_hide_nothing() -> None:
    index = grams(["The cat, sat on the mat; it was — as ever — very happy there!"])
    text = "THE CAT sat\non the 'mat' it was as (ever) very happy there"
    assert contaminated([text], index).tolist() == [True]
    assert matching_words(text, index) == "the cat sat on the mat it was as ever very happy there"


def test_the_report_shows_the_words_that_match() -> None:
    index = grams([numbered(0, 40)])
    assert matching_words(f"Some other words. {numbered(5, 30).upper()}", index) == numbered(5, 18)
    assert matching_words("nothing of it", index) is None


def test_short_evaluation_texts_count_from_eight_words_on_and_shorter_ones_only_as_whole_documents() -> None:
    index = grams(["one two three four five six seven eight", "a great film"])
    texts = [
        "so one two three four five six seven eight indeed",
        "two three four five six seven eight",
        "A great film!",
        "what a great film",
    ]
    assert contaminated(texts, index).tolist() == [True, False, True, False]


def test_runs_do_not_reach_from_one_text_into_the_next() -> None:
    index = grams([numbered(0, 26)])
    assert contaminated([numbered(0, 7), numbered(7, 13), ""], index).tolist() == [False, False, False]
    assert contaminated([numbered(0, 13)], grams([numbered(0, 7), numbered(7, 14)])).tolist() == [False]


def test_texts_without_words_convict_nobody() -> None:
    index = grams(["", "---", "☺"])
    assert contaminated(["", "---", "words"], index).tolist() == [False, False, False]
    assert contaminated([], grams([])).tolist() == []


@given(TEXTS, TEXTS, TEXTS)
def test_an_index_may_be_built_in_parts_and_travel(texts: list[str], first: list[str], second: list[str]) -> None:
    joined, at_once = grams(first, 9) | grams(second, 9), grams(first + second, 9)
    assert joined.by_length.keys() == at_once.by_length.keys()
    assert all(np.array_equal(joined.by_length[k], at_once.by_length[k]) for k in joined.by_length)
    sent: EvaluationIndex = pickle.loads(pickle.dumps(joined))
    assert np.array_equal(contaminated(texts, sent), contaminated(texts, at_once))


def test_indices_of_different_runs_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match="runs of 13 and of 8 words"):
        _ = grams([], 13) | grams([], 8)
