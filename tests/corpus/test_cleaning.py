"""Repair mends what is broken, leaves alone what is not, and does nothing the second time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.cleaning import one_line, reason_to_drop, repair


@pytest.mark.parametrize(
    ("given_text", "wanted"),
    [
        ("schÃ¶n", "schön"),
        ("cafe\u0301", "café"),
        ("  two \t words\r\n", "two words"),
        ("two \r\n lines\n\n \n\nand a paragraph", "two\nlines\n\nand a paragraph"),
        ("nul\x00 bell\x07", "nul bell"),
        ("zero\u200bwidth \ufefffeff", "zerowidth feff"),
        ("a\u00a0b\u3000c", "a b c"),
        ("&lt;b&gt; stays", "&lt;b&gt; stays"),
        ("“quoted” ﬁne", "“quoted” ﬁne"),
        ("你好，世界", "你好，世界"),
        ("👩\u200d👧 می\u200cخواهم", "👩\u200d👧 می\u200cخواهم"),
        ("", ""),
    ],
)
def test_repair(given_text: str, wanted: str) -> None:
    assert repair(given_text) == wanted


def test_the_recipe_may_ask_for_compatibility_forms() -> None:
    assert repair("ﬁne ①", "NFKC") == "fine 1"


@given(st.text(max_size=80))
def test_repairing_twice_is_repairing_once(text: str) -> None:
    once = repair(text)
    assert repair(once) == once


def test_texts_are_dropped_for_a_reason() -> None:
    assert [reason_to_drop(text, 3) for text in ("", "ab", "abc")] == ["empty", "too short", None]


def test_a_labelled_text_is_one_line() -> None:
    assert one_line(repair(" two\r\n\r\nlines\u2028here")) == "two lines here"
