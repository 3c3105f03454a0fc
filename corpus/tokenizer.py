"""The tokenizer of a build: text to ids with the ``tokenizers`` library alone, so that no torch is loaded where data is made.

Reads ``tokenizer.json``, or a WordPiece ``vocab.txt``, from a model folder; writes what transformers needs to read the same one again.
Adds no special tokens: ``packing.py`` frames the documents. Where a vocabulary of one's own comes from is ``wordpiece.py``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

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
# Unicode's Sentence_Terminal signs that are in common use.
_SENTENCE_ENDS = ".!?\u3002\uff01\uff1f\uff0e\u061f\u06d4\u0964\u0965"
_COUNTED_AT_ONCE = 10_000
_UNUSED = re.compile(r"\[unused\d+\]")
_SPECIAL = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]", "unk": "[UNK]"}


@dataclass(frozen=True)
class TokenizerPlan:
    """A tokenizer that was found and can be used."""

    files: dict[str, bytes]
    """Name to content of what transformers reads, placeholders included."""
    serialised: str
    """The whole tokenizer as JSON: what is sent to workers, which may not see the folder."""
    record: TokenizerRecord
    unknown_id: int | None
    """The token for what the vocabulary has no pieces for; None where there is none, as in vocabularies of bytes."""

    @property
    def size_bytes(self) -> int:
        """What ``save_tokenizer`` will write."""
        return sum(map(len, self.files.values()))


def open_tokenizer(folder: Path, placeholders: Sequence[str] = ()) -> TokenizerPlan:
    """Load the tokenizer in ``folder`` and find its special tokens.

    Args:
        folder: A model's or tokenizer's folder.
        placeholders: Words to be known as one token each. They take the places of ``[unused…]`` tokens where the vocabulary has some, as
            BERT's has, so that every other id stays and no embedding is added; else they get new ids at the end.

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
    known = _with_placeholders(tokenizer, placeholders)
    tokenizer = _deserialised(known.serialised)
    given = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    digest = hashlib.sha256(repr(sorted(known.ids.items())).encode() if known.ids else b"")
    for name in _DECIDING:
        if name in given:
            digest.update(name.encode() + b"\0" + given[name])
    record = TokenizerRecord(
        sha256=digest.hexdigest(),
        vocabulary=max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1,
        cls_id=ids["cls"],
        sep_id=ids["sep"],
        pad_id=ids["pad"],
        mask_id=ids["mask"],
        special_ids=tuple(sorted(found for found in set(ids.values()) if found is not None)),
        placeholders=known.ids,
    )
    return TokenizerPlan(_changed(given, known), known.serialised, record, ids["unk"])


def save_tokenizer(plan: TokenizerPlan, target: Path) -> None:
    """Write the tokenizer's files, with its placeholders, into a new folder."""
    target.mkdir(parents=True)
    for name, content in plan.files.items():
        (target / name).write_bytes(content)


class _Known(NamedTuple):
    """A tokenizer that knows the placeholders."""

    serialised: str
    ids: dict[str, int]


def _with_placeholders(tokenizer: Any, placeholders: Sequence[str]) -> _Known:
    from tokenizers import AddedToken

    missing = [word for word in placeholders if tokenizer.token_to_id(word) is None]
    tree = json.loads(tokenizer.to_str())
    vocabulary = tree["model"].get("vocab")
    # Other models than WordPiece keep their vocabulary in a list, or merges that refer to it.
    if tree["model"]["type"] == "WordPiece":
        free = sorted((number, word) for word, number in vocabulary.items() if _UNUSED.fullmatch(word))
        for word, (number, unused) in zip(missing, free, strict=False):
            del vocabulary[unused]
            vocabulary[word] = number
            form = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
            tree["added_tokens"].append({"id": number, "content": word, **form})
        tree["added_tokens"].sort(key=lambda token: token["id"])
        missing = missing[len(free) :]
    changed = _deserialised(json.dumps(tree, ensure_ascii=False))
    if missing:
        changed = type(changed).from_str(changed.to_str())  # the cached one stays as it is
        changed.add_tokens([AddedToken(word, normalized=False) for word in missing])
    return _Known(changed.to_str(), {word: changed.token_to_id(word) for word in placeholders})


def _changed(given: dict[str, bytes], known: _Known) -> dict[str, bytes]:
    """The files of a tokenizer that has learned its placeholders."""
    if not known.ids:
        return given
    files = given | {"tokenizer.json": known.serialised.encode()}
    if "vocab.txt" in given:
        words = given["vocab.txt"].decode().split("\n")
        for word, number in known.ids.items():
            if number < len(words):
                words[number] = word
        files["vocab.txt"] = "\n".join(words).encode()
    return files


def vocabulary_of(folder: Path) -> dict[str, int]:
    """Token to id, added tokens among them, of the tokenizer in ``folder``.

    Raises:
        EncoderError: No tokenizer there, or a damaged one.
    """
    found: dict[str, int] = _load(folder).get_vocab(with_added_tokens=True)
    return found


def encode(serialised: str, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens and without truncation."""
    return [encoding.ids for encoding in _deserialised(serialised).encode_batch_fast(texts, add_special_tokens=False)]


def token_counter(folder: Path) -> Callable[[Sequence[str], Sequence[str] | None], npt.NDArray[np.int64]] | None:
    """A function that counts the tokens of texts (or pairs of texts) as a model reads them: special tokens counted, nothing cut.

    None when the folder's tokenizer is of a form that this library cannot open; transformers may still know it.
    """
    try:
        tokenizer = _load(folder)
    except EncoderError:
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: Sequence[str], pairs: Sequence[str] | None = None) -> npt.NDArray[np.int64]:
        given = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        counts: list[int] = []
        for start in range(0, len(given), _COUNTED_AT_ONCE):
            counts += map(len, tokenizer.encode_batch_fast(given[start : start + _COUNTED_AT_ONCE]))
        return np.array(counts, dtype=np.int64)

    return count


def sentence_ends(serialised: str) -> list[int]:
    """Ids of the tokens that end a sentence in the scripts that have such signs; the one beside a closing quote is not looked for."""
    tokenizer = _deserialised(serialised)
    found = (tokenizer.token_to_id(form) for sign in _SENTENCE_ENDS for form in (sign, f"##{sign}"))
    return sorted({number for number in found if number is not None})


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
