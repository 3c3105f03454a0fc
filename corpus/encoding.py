"""Token ids of many texts from those of their words: the library tokenises each word once, NumPy puts texts together from what is known.

The same words come again and again, and a look-up is far cheaper than a tokenisation. Ids are those of ``tokenizer.encode``, the plain
form, because this is only done where a text's ids are those of its words, and a word's those of its parts, by construction: BERT's
normaliser changes one character at a time (canonical decomposition reorders marks between starters only; spaces and ASCII punctuation are
starters), its pre-tokenizer ends a piece at every space and around every sign of punctuation, and WordPiece sees one piece at a time. Added
tokens are looked for in the text as it stands, so a word that holds one is left whole. Any other tokenizer takes whole texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.tokenizer import encode

# Words kept, and characters in them, before all are forgotten: about 60 MB.
_MOST_WORDS = 200_000
_MOST_CHARACTERS = 10_000_000
# Text taken apart at once: its words take some twelve times its memory.
_RUN_CHARACTERS = 4_000_000
_PUNCTUATION = r"!-/:-@\[-`{-~"


class Ragged(NamedTuple):
    """N lists of ids, one behind the other."""

    values: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    """(N + 1,) list i is ``values[offsets[i]:offsets[i + 1]]``."""


def encode_all(serialised: str, texts: Sequence[str]) -> pa.ListArray:
    """Token ids of each text, list<int32>, without special tokens and without truncation.

    Args:
        serialised: The tokenizer as JSON.
        texts: N of them.
    """
    found = map(_encoder(serialised), _runs(texts))
    return pa.concat_arrays([pa.ListArray.from_arrays(pa.array(ids.offsets.astype(np.int32)), pa.array(ids.values)) for ids in found])


def is_word_by_word(serialised: str) -> bool:
    """Whether a text's ids are those of its words between spaces, tabs and line ends, one after the other, whatever the text."""
    tree = json.loads(serialised)
    kinds = [(tree.get(part) or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
    is_bert = kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]
    return is_bert and all(map(_is_within_a_word, tree["added_tokens"]))


def _is_within_a_word(token: dict[str, Any]) -> bool:
    """Whether an added token is found in a word exactly where it is found in the text."""
    looks_around = token["normalized"] or token["single_word"] or token["lstrip"] or token["rstrip"]
    return not looks_around and bool(token["content"]) and not any(map(str.isspace, token["content"]))


class _Grown:
    """An array that grows at its end; an item is copied a few times at most."""

    def __init__(self, kind: type[np.integer[Any]]) -> None:
        self.items: npt.NDArray[Any] = np.zeros(1_024, dtype=kind)
        self.size = 0

    def extend(self, more: npt.NDArray[Any]) -> None:
        end = self.size + len(more)
        if end > len(self.items):
            self.items = np.concatenate([self.items[: self.size], np.zeros(2 * end - self.size, self.items.dtype)])
        self.items[self.size : end] = more
        self.size = end


class _Known(dict[str, int]):
    """Part to number, and by number its ids; a part that is not known gets the next number and waits to be encoded."""

    _waiting: list[str]
    _characters: int
    _values: _Grown
    _starts: _Grown
    _sizes: _Grown

    def __init__(self, split: Callable[[str], list[str]], below: Callable[[Sequence[str]], Ragged]) -> None:
        """``split`` gives a text's parts, whose ids are the text's; ``below`` encodes parts that are met for the first time."""
        super().__init__()
        self._split, self._below = split, below
        self._lock = Lock()
        self._forget()

    def __missing__(self, part: str) -> int:
        number = self[part] = len(self)
        self._waiting.append(part)
        return number

    def encode(self, texts: Sequence[str]) -> Ragged:
        with self._lock:
            if len(self) > _MOST_WORDS or self._characters > _MOST_CHARACTERS:
                self._forget()
            try:
                parts = [self._split(text) for text in texts]
                ends = np.cumsum([0, *map(len, parts)])
                numbers = np.fromiter(map(self.__getitem__, chain.from_iterable(parts)), np.int64, count=int(ends[-1]))
                self._encode_waiting()
            except BaseException:
                self._forget()  # what waits has a number and no ids
                raise
            sizes = self._sizes.items[numbers]
            offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
            places = np.repeat(self._starts.items[numbers] - offsets[:-1], sizes) + np.arange(offsets[-1])
            return Ragged(self._values.items[places], offsets[ends])

    def _encode_waiting(self) -> None:
        if not self._waiting:
            return
        found = self._below(self._waiting)
        self._characters += sum(map(len, self._waiting))
        self._starts.extend(self._values.size + found.offsets[:-1])
        self._sizes.extend(np.diff(found.offsets))
        self._values.extend(found.values)
        self._waiting = []

    def _forget(self) -> None:
        self.clear()
        self._waiting, self._characters = [], 0
        self._values, self._starts, self._sizes = _Grown(np.int32), _Grown(np.int64), _Grown(np.int64)


@lru_cache(maxsize=2)
def _encoder(serialised: str) -> Callable[[Sequence[str]], Ragged]:
    """Encodes texts with what this process has met before."""
    whole = partial(_whole, serialised)
    if not is_word_by_word(serialised):
        return whole
    added = "|".join(re.escape(token["content"]) for token in json.loads(serialised)["added_tokens"])
    # An added token alone, or a sign of punctuation, or what is between signs.
    holds_added = re.compile(added or "(?!)").search
    parts_of = re.compile(f"[{_PUNCTUATION}]|[^{_PUNCTUATION}]+").findall
    parts = _Known(lambda word: [word] if holds_added(word) else parts_of(word), whole)
    return _Known(_words, parts.encode).encode


def _runs(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts, some at a time; at least one run, if an empty one."""
    run, characters = list[str](), 0
    for text in texts:
        run.append(text)
        characters += len(text)
        if characters >= _RUN_CHARACTERS:
            yield run
            run, characters = [], 0
    yield run


def _words(text: str) -> list[str]:
    # Not str.split(): it also splits at characters that the normaliser removes without leaving a space.
    return text.replace("\n", " ").replace("\t", " ").replace("\r", " ").split(" ")


def _whole(serialised: str, texts: Sequence[str]) -> Ragged:
    found = encode(serialised, list(texts))
    offsets = np.cumsum([0, *map(len, found)])
    return Ragged(np.fromiter(chain.from_iterable(found), np.int32, count=int(offsets[-1])), offsets)
