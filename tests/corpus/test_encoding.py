"""Texts put together from known words have exactly the ids that the library gives them, whatever is in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus import encoding
from corpus.encoding import encode_all, is_word_by_word
from corpus.tokenizer import encode, open_tokenizer

PLACEHOLDERS = ("<EMAIL>", "<PHONE>")
# What could go together with a neighbour, vanish, or be a space to one and not to another.
FRAGMENTS = [
    *(
        "the",
        "Movie",
        "don't",
        "e.g.",
        "x" * 101,
        "##ing",
        "[",
        "]",
        "MASK",
        "[mask]",
        "[MASK]",
        "[SEP]x",
        "a<EMAIL>b",
        "<PHONE>",
        "<<EMAIL>>",
    ),
    *(" ", "  ", "\t", "\n", "\r\n", "\v", "\f", "\x1c", "\x1f", "\x85", "\xa0", "\u1680", "\u2003", "\u2028", "\u202f", "\u3000"),
    *("\0", "\x7f", "\xad", "\u200b", "\u200d", "\u200e", "\u2060", "\ufe0f", "\ufeff", "\ufffd"),
    *(
        "\u0301",
        "e\u0301",
        "\u0327\u0301",
        "\u0344",
        ".\u0308",
        "=\u0338",
        "\u2260",
        "é",
        "Å",
        "ß",
        "İ",
        "ı",
        "Σ",
        "ς",
        "ΑΣ",
        "ǆ",
        "ﬁ",
        "Ⅷ",
        "½",
    ),
    *(
        "中",
        "中文字",
        "日本語",
        "カ\u3099",
        "한국",
        "\u1112\u1161\u11ab",
        "العربية",
        "שלום",
        "हिन्दी",
        "ไทย",
        "\U00020000",
        "。",
        "«»",
        "…",
        "—",
        "¿",
    ),
    *("😀", "👨\u200d👩\u200d👧", "🇩🇪", "👍🏽", "\U0001d54f"),
]
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=6), max_size=12).map("".join)


def variants(folder: Path) -> dict[str, str]:
    """The test tokenizer as BERT's cased and uncased models set it up, and otherwise, each with some longer pieces and placeholders."""
    serialised = open_tokenizer(folder, PLACEHOLDERS).serialised
    found = {}
    for name, normalizer in {
        "uncased": {},
        "cased": {"lowercase": False},
        "accents kept": {"strip_accents": False},
        "accents stripped, cased": {"lowercase": False, "strip_accents": True},
        "nothing cleaned": {"clean_text": False, "handle_chinese_chars": False},
    }.items():
        tree = json.loads(serialised)
        tree["normalizer"] |= normalizer
        vocabulary = tree["model"]["vocab"]
        for piece in (
            "the",
            "movie",
            "Movie",
            "##ovi",
            "中",
            "##文",
            "é",
            "##é",
            "e",
            "σ",
            "##ς",
            "😀",
            "mask",
            "##\u0301",
            "\u1112",
            "ss",
            "=",
        ):
            vocabulary.setdefault(piece, max(*vocabulary.values(), *(token["id"] for token in tree["added_tokens"])) + 1)
        found[name] = json.dumps(tree, ensure_ascii=False)
    return found


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = [*"abcdefghijklmnopqrstuvwxyz", *"0123456789", *".,!?'[]<>"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return variants(folder)


def assert_equal(serialised: str, given: Sequence[str]) -> None:
    found = encode_all(serialised, given)
    assert found.to_pylist() == encode(serialised, list(given))
    assert found.type.value_type == "int32"


@given(
    given_texts=st.lists(texts, max_size=6),
    variant=st.sampled_from(["uncased", "cased", "accents kept", "accents stripped, cased", "nothing cleaned"]),
)
def test_ids_are_the_librarys(tokenizers: dict[str, str], given_texts: list[str], variant: str) -> None:
    assert is_word_by_word(tokenizers[variant])
    assert_equal(tokenizers[variant], given_texts)


def test_every_two_fragments_side_by_side_have_the_librarys_ids(tokenizers: dict[str, str]) -> None:
    pairs = [first + second for first in FRAGMENTS for second in FRAGMENTS]
    for serialised in tokenizers.values():
        assert_equal(serialised, pairs)


@pytest.mark.slow
def test_every_character_between_two_letters_has_the_librarys_ids(tokenizers: dict[str, str]) -> None:
    characters = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x11000), *range(0x1D400, 0x1D500), *range(0x1F000, 0x1FB00))]
    assert_equal(tokenizers["uncased"], [f"a{one}b" for one in characters])


def test_known_words_are_forgotten_when_they_are_many_and_ids_stay_the_same(
    tokenizers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_MOST_WORDS", 20)
    monkeypatch.setattr(encoding, "_RUN_CHARACTERS", 80)
    for start in range(0, 300, 10):
        assert_equal(tokenizers["uncased"], [f"word {number} the end, of it" for number in range(start, start + 10)])


def test_a_text_that_the_library_refuses_leaves_nothing_behind(tokenizers: dict[str, str]) -> None:
    with pytest.raises(TypeError, match="TextEncodeInput"):
        encode_all(tokenizers["uncased"], ["fresh words here", "broken \ud800 text"])
    assert_equal(tokenizers["uncased"], ["fresh words here and more"])


def altered(serialised: str, **parts: Any) -> str:
    return json.dumps(json.loads(serialised) | parts)


def with_token(serialised: str, content: str, **form: bool) -> str:
    tree = json.loads(serialised)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tree["added_tokens"].append({"id": 9_999, "content": content} | plain | form)
    return json.dumps(tree)


def test_a_tokenizer_that_looks_beyond_a_word_takes_whole_texts(tokenizers: dict[str, str]) -> None:
    plain = tokenizers["uncased"]
    beyond = [
        with_token(plain, "new york"),
        with_token(plain, "york", normalized=True),
        with_token(plain, "york", single_word=True),
        with_token(plain, "york", lstrip=True),
        with_token(plain, "york", rstrip=True),
        altered(plain, normalizer={"type": "Lowercase"}),
        altered(plain, normalizer=None),
        altered(plain, pre_tokenizer={"type": "Whitespace"}),
    ]
    for serialised in beyond:
        assert not is_word_by_word(serialised)
        assert_equal(serialised, ["to new york, newyork york", "", " a\nb"])
