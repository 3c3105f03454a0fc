"""A vocabulary of one's own is learned from words alone, the same in every process, and transformers reads it with the same ids."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from corpus.config import TrainTokenizerConfig
from corpus.tokenizer import TokenizerPlan, encode, open_tokenizer, save_tokenizer
from corpus.wordpiece import SPECIAL_TOKENS, count_words, learn
from foundation.errors import DataError

TEXTS = ["Lower lowest LOWLY, newer newest! Wide wider widest.", "Ein Fluß, naïve Über 中文文本 text 2019-11-25", "low new wide " * 9]


def learned(folder: Path, texts: list[str], placeholders: Iterable[str] = (), **config: object) -> TokenizerPlan:
    words = tuple(placeholders)
    rules = TrainTokenizerConfig.model_validate({"vocabulary": 120, **config})
    folder.mkdir()
    for name, content in learn(count_words(texts, rules, words), rules, words).items():
        (folder / name).write_text(content, encoding="utf-8")
    return open_tokenizer(folder, words)


def tokens(plan: TokenizerPlan) -> list[str]:
    return plan.files["vocab.txt"].decode().splitlines()


def test_frequent_pairs_become_tokens_behind_special_ones_and_the_alphabet(tmp_path: Path) -> None:
    plan = learned(tmp_path / "learned", ["ab abc ab abd"] * 3, vocabulary=16)
    assert tokens(plan) == [*SPECIAL_TOKENS, "a", "b", "c", "d", "##b", "##c", "##d", "ab", "abc", "abd"]
    (ids,) = encode(plan.serialised, ["ABD abcd ba xa"])
    assert [tokens(plan)[number] for number in ids] == ["abd", "abc", "##d", "[UNK]", "[UNK]"]
    assert (plan.record.vocabulary, plan.unknown_id, plan.record.mask_id) == (15, 1, 4)


def test_ids_are_those_of_transformers_and_placeholders_one_token_each(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    plan = learned(tmp_path / "learned", [*TEXTS, "write to [EMAIL]"], ["[EMAIL]", "[PHONE]"])
    save_tokenizer(plan, tmp_path / "saved")
    reference = AutoTokenizer.from_pretrained(tmp_path / "saved")
    texts = [*TEXTS, "to [EMAIL], or [PHONE] with [SEP] inside", "x" * 300, "中国 ИЗБА \u200b\x00é"]
    assert encode(plan.serialised, texts) == [reference(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    assert reference("a", "b")["input_ids"] == [2, *encode(plan.serialised, ["a"])[0], 3, *encode(plan.serialised, ["b"])[0], 3]
    assert (len(reference), reference.mask_token_id, reference.pad_token_id) == (plan.record.vocabulary, 4, 0)
    assert plan.record.placeholders == {"[EMAIL]": 5, "[PHONE]": 6}
    # A build that takes this tokenizer from the folder makes the same ids.
    assert open_tokenizer(tmp_path / "saved", ["[EMAIL]", "[PHONE]"]) == plan


@pytest.mark.parametrize(
    ("config", "text", "wanted"),
    [
        ({}, "Über", ["uber"]),
        ({"strip_accents": False}, "Über", ["über"]),
        ({"lowercase": False}, "Über", ["Über"]),
        ({"lowercase": False, "strip_accents": True}, "Über", ["Uber"]),
        ({}, "中文", ["中", "文"]),
        ({}, "re-use [EMAIL] [SEP] it's", ["'", "-", "it", "re", "s", "use"]),
        ({}, "y" * 101, []),
    ],
)
def test_words_are_cut_as_bert_cuts_them(config: dict[str, object], text: str, wanted: list[str]) -> None:
    found = count_words([text], TrainTokenizerConfig.model_validate(config), ["[EMAIL]"])
    assert found.column("word").to_pylist() == wanted


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="aBé ,.中文\n\u00a0\u3000\t-_Ωß'", max_size=40), max_size=4))
def test_counts_are_those_of_whole_texts_cut_by_the_library(texts: list[str]) -> None:
    normaliser = BertNormalizer(lowercase=True)
    wanted = Counter(word for text in texts for word, _ in BertPreTokenizer().pre_tokenize_str(normaliser.normalize_str(text)))
    found = count_words(texts, TrainTokenizerConfig())
    assert dict(zip(found.column("word").to_pylist(), found.column("count").to_pylist(), strict=True)) == wanted
    assert found.column("word").to_pylist() == sorted(wanted)


def test_rare_characters_stay_outside_the_alphabet_and_ties_go_by_code_point(tmp_path: Path) -> None:
    plan = learned(tmp_path / "learned", ["aab zb qx"], alphabet=3, min_frequency=9)
    assert tokens(plan)[5:] == ["a", "b", "q", "##a", "##b"]


def test_a_vocabulary_without_room_for_the_alphabet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vocabulary: is 16, but special tokens and characters alone are \d+; give a larger vocabulary"):
        learned(tmp_path / "a", TEXTS, vocabulary=16)
    with pytest.raises(DataError, match="hold no words to learn from"):
        learned(tmp_path / "b", ["[EMAIL] "], ["[EMAIL]"])


def test_the_vocabulary_is_full_when_the_texts_give_enough_and_smaller_when_not(tmp_path: Path) -> None:
    draw = random.Random(3)
    texts = [" ".join("".join(draw.choices("abcdef", k=draw.randint(1, 6))) for _ in range(2_000))]
    assert learned(tmp_path / "full", texts, vocabulary=300).record.vocabulary == 300
    assert learned(tmp_path / "small", ["ab ab cd"], vocabulary=300).record.vocabulary == 5 + 4 + 2 + 1


@pytest.mark.slow
def test_the_same_counts_give_the_same_bytes_in_every_process() -> None:
    code = (
        "import hashlib, random, pyarrow as pa; from corpus.config import TrainTokenizerConfig; from corpus.wordpiece import learn\n"
        "draw = random.Random(0)\n"
        # Nearly all pairs of these words are equally frequent: where the trainer may choose, it would choose here.
        "words = sorted({''.join(draw.choices('abcdefghij', k=draw.randint(2, 7))) for _ in range(3000)})\n"
        "table = pa.table({'word': words, 'count': [2] * len(words)})\n"
        "files = learn(table, TrainTokenizerConfig(vocabulary=300), ['[EMAIL]'])\n"
        "print(hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest())"
    )

    def answer(number: int) -> str:
        env = os.environ | {"PYTHONHASHSEED": str(number), "RAYON_NUM_THREADS": str(number + 1)}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    assert len({answer(number) for number in range(4)}) == 1


def test_equal_counts_give_equal_files_whoever_asks_and_how_often() -> None:
    draw = random.Random(1)
    words = sorted({"".join(draw.choices("ab", k=draw.randint(2, 40))) for _ in range(300)})
    table = pa.table({"word": words, "count": [draw.randint(1, 4) for _ in words]})
    digests = {hashlib.sha256(learn(table, TrainTokenizerConfig(vocabulary=900))["vocab.txt"].encode()).hexdigest() for _ in range(5)}
    assert len(digests) == 1
