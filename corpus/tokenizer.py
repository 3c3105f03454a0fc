"""The tokenizer of a build: text to ids with the ``tokenizers`` library alone, so that no torch is loaded where data is made.

Reads ``tokenizer.json``, or a WordPiece ``vocab.txt``, from a model folder; copies what transformers needs to read the same one again.
Adds no special tokens: ``packing.py`` frames the documents.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from corpus.manifest import TokenizerRecord
from foundation.errors import EncoderError

# Everything that transformers may read when it loads a tokenizer; the first three decide the ids.
FILES = (
    "tokenizer.json",
    "vocab.txt",
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_DECIDING = FILES[:3]
_SPECIAL = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]", "unk": "[UNK]"}


@dataclass(frozen=True)
class TokenizerPlan:
    """A tokenizer that was found and can be used."""

    folder: Path
    serialised: str
    """The whole tokenizer as JSON: what is sent to workers, which may not see the folder."""
    record: TokenizerRecord

    @property
    def copied_bytes(self) -> int:
        """What ``copy_tokenizer`` will write."""
        return sum((self.folder / name).stat().st_size for name in FILES if (self.folder / name).is_file())


def open_tokenizer(folder: Path) -> TokenizerPlan:
    """Load the tokenizer in ``folder`` and find its special tokens.

    Raises:
        EncoderError: No tokenizer there, a damaged one, or one without the special tokens of a BERT.
    """
    tokenizer = _load(folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    names = {role: _special_name(folder, role) for role in _SPECIAL}
    ids = {role: tokenizer.token_to_id(name) for role, name in names.items()}
    for role, found in ids.items():
        if found is None and role != "unk":
            raise EncoderError(f"{folder}: the tokenizer has no {names[role]} token; pretraining packs and masks with [CLS], [SEP], [MASK]")
    digest = hashlib.sha256()
    for name in _DECIDING:
        if (folder / name).is_file():
            digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
    record = TokenizerRecord(
        sha256=digest.hexdigest(),
        vocabulary=max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1,
        cls_id=ids["cls"],
        sep_id=ids["sep"],
        pad_id=ids["pad"],
        mask_id=ids["mask"],
        special_ids=tuple(sorted(found for found in set(ids.values()) if found is not None)),
    )
    return TokenizerPlan(folder, tokenizer.to_str(), record)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files into a new folder."""
    target.mkdir(parents=True)
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def encode(serialised: str, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens and without truncation."""
    return [encoding.ids for encoding in _deserialised(serialised).encode_batch_fast(texts, add_special_tokens=False)]


@lru_cache(maxsize=2)
def _deserialised(serialised: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(serialised)


def _load(folder: Path) -> Any:
    from tokenizers import BertWordPieceTokenizer, Tokenizer

    if not folder.is_dir():
        raise EncoderError(f"{folder}: no such folder; a tokenizer is a folder with tokenizer.json or vocab.txt")
    try:
        if (folder / "tokenizer.json").is_file():
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        if (folder / "vocab.txt").is_file():
            lower = _json(folder / "tokenizer_config.json").get("do_lower_case", True)
            return BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=bool(lower))._tokenizer
    except Exception as error:  # the library raises a bare Exception for a damaged file
        raise EncoderError(f"{folder}: the tokenizer cannot be read: {error}") from None
    raise EncoderError(f"{folder}: no tokenizer.json and no vocab.txt; give an encoder folder that holds its tokenizer")


def _special_name(folder: Path, role: str) -> str:
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        found = _json(folder / file).get(f"{role}_token")
        name = found.get("content") if isinstance(found, dict) else found
        if isinstance(name, str):
            return name
    return _SPECIAL[role]


def _json(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise EncoderError(f"{file}: not valid JSON: {error}") from None
    return tree if isinstance(tree, dict) else {}
