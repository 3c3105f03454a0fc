"""Words are found as a plain loop finds them, and their numbers depend on the words alone."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.words import hash_words, split_words, whole, word_counts, word_runs

# Letters, marks, spaces, signs and scripts that meet each other; surrogates too, since files hold what they hold.
TEXT = st.text(st.one_of(st.sampled_from("abAB 1_-'\n.éÉ\u0301你好ひกΣİ☺\ufe0f"), st.characters()), max_size=30)


def plain_words(text: str) -> list[str]:
    """The plain version: character by character."""
    words: list[str] = []
    joined = False
    for character in text.lower():
        code, category = ord(character), unicodedata.category(character)
        is_word = (category[0] in "LN" or category in ("Mn", "Mc")) and code < 0x40000 and not 0xFE00 <= code <= 0xFE0F
        alone = is_word and any(
            first <= code <= last
            for first, last in (
                (0x0E00, 0x0EFF),
                (0x1000, 0x109F),
                (0x1780, 0x17FF),
                (0x3040, 0x30FF),
                (0x31F0, 0x31FF),
                (0x3400, 0x4DBF),
                (0x4E00, 0x9FFF),
                (0xF900, 0xFAFF),
                (0xFF66, 0xFF9F),
                (0x20000, 0x3FFFF),
            )
        )
        if is_word and joined and not alone:
            words[-1] += character
        elif is_word:
            words.append(character)
        joined = is_word and not alone
    return words


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Don't  STOP,\nplease!", ["don", "t", "stop", "please"]),
        ("snake_case x² 3.14", ["snake", "case", "x²", "3", "14"]),
        ("你好 world，ひら", ["你", "好", "world", "ひ", "ら"]),
        ("한국어 텍스트", ["한국어", "텍스트"]),
        ("हिन्दी है", ["हिन्दी", "है"]),
        ("--- ☺\ufe0f ---", []),
        ("", []),
    ],
)
def test_a_word_is_a_run_of_letters_in_lower_case_or_one_character_of_an_unspaced_script(text: str, wanted: list[str]) -> None:
    assert split_words(text) == wanted


@given(st.lists(TEXT, max_size=8))
def test_words_are_those_of_the_plain_loop_and_equal_words_have_equal_numbers(texts: list[str]) -> None:
    wanted = [plain_words(text) for text in texts]
    assert [split_words(text) for text in texts] == wanted
    found = hash_words(texts)
    assert found.counts.tolist() == [len(words) for words in wanted]
    numbers = dict(zip([word for words in wanted for word in words], found.hashes.tolist(), strict=True))
    assert len(set(numbers.values())) == len(numbers)
    assert [numbers[word] for words in wanted for word in words] == found.hashes.tolist()


@given(st.lists(TEXT, max_size=8))
def test_words_are_counted_without_making_them(texts: list[str]) -> None:
    assert word_counts(texts).tolist() == [len(split_words(text)) for text in texts]


@given(st.lists(TEXT, max_size=8), st.integers(1, 7))
def test_runs_of_words_stay_within_their_text(texts: list[str], n: int) -> None:
    wanted = [[tuple(words[i : i + n]) for i in range(len(words) - n + 1)] for words in map(plain_words, texts)]
    found = word_runs(hash_words(texts), n)
    assert found.counts.tolist() == [len(runs) for runs in wanted]
    numbers = dict(zip([run for runs in wanted for run in runs], found.hashes.tolist(), strict=True))
    assert len(set(numbers.values())) == len(numbers)
    assert [numbers[run] for runs in wanted for run in runs] == found.hashes.tolist()
    places, numbers_of_all = whole(hash_words(texts), n)
    assert places.tolist() == [i for i, text in enumerate(texts) if len(plain_words(text)) == n]
    assert numbers_of_all.tolist() == [numbers[tuple(plain_words(texts[i]))] for i in places]


def test_words_do_not_depend_on_how_many_texts_are_hashed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"Text number {i}, of {'many ' * (i % 7)}words" for i in range(50)] + ["", "---", "last"]
    at_once = hash_words(texts)
    monkeypatch.setattr("corpus.words._BLOCK_CHARACTERS", 40)
    in_pieces = hash_words(texts)
    assert np.array_equal(at_once.hashes, in_pieces.hashes)
    assert np.array_equal(at_once.starts, in_pieces.starts)


def test_borders_and_order_of_words_count() -> None:
    runs = [word_runs(hash_words([text]), 2).hashes[0] for text in ("ab c", "a bc", "c ab", "b ac")]
    assert len(set(runs)) == 4


def test_numbers_never_change_between_versions() -> None:
    words = hash_words(["The quick brown fox", "naïve 你好"])
    assert words.hashes[[0, 4, 6]].tolist() == [0xBE150EBD868A444D, 0x22AFA70C1C84C6A4, 0xDC4794B23A7A13A1]
    assert word_runs(words, 3).hashes.tolist() == [0xEF2D5907548FC96F, 0xAE339AC78F15C85B, 0x220FFDA933A307D3]
