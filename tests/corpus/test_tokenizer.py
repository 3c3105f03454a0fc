"""Ids are the ones that transformers gives; a folder without a usable tokenizer is refused by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from corpus.tokenizer import encode, open_tokenizer, save_tokenizer, token_counter
from foundation.errors import EncoderError

TEXTS = ["This is a good product!", "naïve Über 中文 text, with [SEP] inside", "x" * 300, "word " * 400]


def test_ids_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from tests.support.tiny import write_tokenizer

    write_tokenizer(tmp_path / "saved")
    reference = AutoTokenizer.from_pretrained(tmp_path / "saved")
    opened = open_tokenizer(tmp_path / "saved")
    wanted = [reference(text, add_special_tokens=False, verbose=False)["input_ids"] for text in TEXTS]
    assert encode(opened.serialised, TEXTS) == wanted
    assert (opened.record.mask_id, opened.record.vocabulary) == (reference.mask_token_id, len(reference))
    assert set(opened.record.special_ids) == set(reference.all_special_ids)
    save_tokenizer(opened, tmp_path / "copied")
    assert AutoTokenizer.from_pretrained(tmp_path / "copied")(TEXTS)["input_ids"] == reference(TEXTS)["input_ids"]


def test_a_bare_vocabulary_is_enough(tokenizer_folder: Path) -> None:
    opened = open_tokenizer(tokenizer_folder)
    assert opened.record.special_ids == (0, 1, 2, 3, 4)
    assert encode(opened.serialised, ["AB b"]) == [[5, opened.record.vocabulary - 39, 6]]


@pytest.mark.parametrize("unused", [0, 1, 3])
def test_placeholders_are_one_token_each_also_for_transformers(tmp_path: Path, unused: int) -> None:
    from transformers import AutoTokenizer

    from tests.support.tiny import write_tokenizer

    plain = tmp_path / "saved"
    write_tokenizer(plain)
    if unused:
        words = [*(f"[unused{i}]" for i in range(unused)), *(plain / "vocab.txt").read_text().split("\n")]
        (plain / "vocab.txt").write_text("\n".join(words))
        (plain / "tokenizer.json").unlink()
    before = open_tokenizer(plain)
    opened = open_tokenizer(plain, ["[EMAIL]", "[PHONE]"])
    assert opened.record.vocabulary == before.record.vocabulary + max(0, 2 - unused)
    assert opened.record.sha256 != before.record.sha256
    text = "write to [EMAIL], or [PHONE]"
    (ids,) = encode(opened.serialised, [text])
    email, phone = opened.record.placeholders["[EMAIL]"], opened.record.placeholders["[PHONE]"]
    assert [number for number in ids if number in (email, phone)] == [email, phone]
    assert encode(opened.serialised, TEXTS) == encode(before.serialised, TEXTS)
    save_tokenizer(opened, tmp_path / "copied")
    copied = AutoTokenizer.from_pretrained(tmp_path / "copied")
    assert copied(text, add_special_tokens=False)["input_ids"] == ids
    # What was continued from such a build is built upon again.
    again = open_tokenizer(tmp_path / "copied", ["[EMAIL]", "[PHONE]"])
    assert again.record.placeholders == opened.record.placeholders
    assert again.record.vocabulary == opened.record.vocabulary


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer.json and no vocab.txt"),
        ({"tokenizer.json": "{"}, "the tokenizer cannot be read"),
        ({"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n"}, r"the tokenizer has no \[MASK\] token"),
    ],
)
def test_a_folder_without_a_usable_tokenizer_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(EncoderError, match=message):
        open_tokenizer(tmp_path)


def test_the_corpus_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys, corpus.build, corpus.planning, corpus.labelled, corpus.shards, corpus.masks, corpus.ray_stages; "
        "sys.exit(', '.join({'torch', 'ray', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_tokens_are_counted_with_special_ones_and_for_pairs(tokenizer_folder: Path, tmp_path: Path) -> None:
    count = token_counter(tokenizer_folder)
    assert count is not None
    assert count(["abc", "a b", ""], None).tolist() == [5, 4, 2]
    assert count(["abc"], ["de"]).tolist() == [3 + 2 + 3]
    assert token_counter(tmp_path) is None
