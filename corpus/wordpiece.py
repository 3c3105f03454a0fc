"""A WordPiece vocabulary of one's own: words are counted, characters that are frequent enough become the alphabet, and the pair of tokens
that stands side by side most often becomes one token, again and again, until the vocabulary is full.

The ``tokenizers`` library does the joining. It keeps what it counts in hash maps whose order differs from process to process, numbers the
tokens ``##a`` in that order, and lets those numbers decide between pairs that are equally frequent: trained on the same texts it gives
other ids each time, and other tokens where ties are many. So words are counted here, and the alphabet, both forms of it, is handed over in
an order of its own. Then the same counts give the same files, byte for byte; a test trains in several processes and compares. Knows nothing
of builds; how texts are chosen and where counts are kept is ``tokenising.py``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from corpus.config import TrainTokenizerConfig
from foundation.errors import DataError

WORDPIECE_VERSION = 1
"""Of what is in this file: vocabularies kept under another one are learned again."""
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Longer words are unknown to WordPiece, as in BERT; what cannot be encoded is not learned from.
_WORD_CHARACTERS = 100
# The trainer takes in 256 lines at once.
_WORDS_IN_LINE = 2_000
_WORDS_AT_ONCE = 50_000
_CONTINUES = "##"


def count_words(texts: Sequence[str], config: TrainTokenizerConfig, placeholders: Sequence[str] = ()) -> pa.Table:
    """The words of texts as BERT's BasicTokenizer cuts them, CJK characters and punctuation signs alone, with how often each occurs.

    Args:
        texts: What to count.
        config: Says how words are normalised.
        placeholders: Words that are one token each and teach nothing; neither do special tokens.

    Returns:
        ``word`` string, ascending, and ``count`` int64.
    """
    normalise, cut = _normaliser(config).normalize_str, _bert_words().pre_tokenize_str
    apart = re.compile("|".join(map(re.escape, (*SPECIAL_TOKENS, *placeholders))))
    # Each distinct run of letters is normalised once: five times as fast as whole texts, and the same, as no rule looks past white space.
    runs: Counter[str] = Counter()
    for text in texts:
        runs.update(apart.sub(" ", text).split())
    words: Counter[str] = Counter()
    for run, count in runs.items():
        for word, _ in cut(normalise(run)):
            if len(word) <= _WORD_CHARACTERS:
                words[word] += count
    found = sorted(words.items())
    return pa.table({"word": pa.array([word for word, _ in found], pa.string()), "count": pa.array([n for _, n in found], pa.int64())})


def learn(words: pa.Table, config: TrainTokenizerConfig, placeholders: Sequence[str] = ()) -> dict[str, str]:
    """Learn a vocabulary.

    Args:
        words: As ``count_words`` gives them, each word once, ascending.
        config: Size and rules.
        placeholders: Words to be known as one token each.

    Returns:
        File name to content of a tokenizer's folder, as transformers reads it. Ids: special tokens, placeholders, the alphabet by code
        point, its continuing forms, then what was joined, in the order of joining.

    Raises:
        DataError: There is no word, or the vocabulary has no room for the alphabet.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    if not len(words):
        raise DataError("train_tokenizer: the training texts hold no words to learn from; relax `cleaning` or give more texts")
    given = [*SPECIAL_TOKENS, *placeholders, *_alphabet(words, config.alphabet)]
    if len(given) > config.vocabulary:
        raise DataError(
            f"train_tokenizer.vocabulary: is {config.vocabulary:,}, but special tokens and characters alone are {len(given):,}; "
            f"give a larger vocabulary or lower train_tokenizer.alphabet, {config.alphabet:,} now"
        )
    # limit_alphabet=0 keeps the trainer from adding characters of its own beside the given ones.
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocabulary, min_frequency=config.min_frequency, special_tokens=given, limit_alphabet=0, show_progress=False
    )
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # A count cannot be handed over: a word is repeated as often as it occurred, about 5 s of CPU time for ten million words.
    trained.train_from_iterator(_repeated(words), trainer)
    vocabulary = trained.get_vocab(with_added_tokens=False)
    return _files(vocabulary, config, placeholders)


def _alphabet(words: pa.Table, most: int) -> list[str]:
    """The most frequent characters by code point, then the continuing form of those that occur behind another."""
    counts: Counter[str] = Counter()
    continuing: set[str] = set()
    for batch in words.to_batches(max_chunksize=_WORDS_AT_ONCE):
        for word, count in zip(batch.column("word").to_pylist(), batch.column("count").to_pylist(), strict=True):
            for character in word:
                counts[character] += count
            continuing.update(word[1:])
    kept = {character for character, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]}
    return [*sorted(kept), *(f"{_CONTINUES}{character}" for character in sorted(kept & continuing))]


def _repeated(words: pa.Table) -> Iterator[str]:
    """Lines in which each word stands as often as it occurred."""
    line: list[str] = []
    for batch in words.to_batches(max_chunksize=_WORDS_AT_ONCE):
        for word, count in zip(batch.column("word").to_pylist(), batch.column("count").to_pylist(), strict=True):
            left = count
            while left:
                taken = min(left, _WORDS_IN_LINE - len(line))
                line += [word] * taken
                left -= taken
                if len(line) == _WORDS_IN_LINE:
                    yield " ".join(line)
                    line = []
    if line:
        yield " ".join(line)


def _files(vocabulary: dict[str, int], config: TrainTokenizerConfig, placeholders: Sequence[str]) -> dict[str, str]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=_WORD_CHARACTERS))
    tokenizer.normalizer = _normaliser(config)
    tokenizer.pre_tokenizer = _bert_words()
    tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUES)
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    pair = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS]:0 $A:0 [SEP]:0", pair=pair, special_tokens=ends)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in placeholders])
    roles = {f"{name[1:-1].lower()}_token": name for name in SPECIAL_TOKENS}
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": config.lowercase,
        "strip_accents": config.strip_accents,
        "tokenize_chinese_chars": True,
        **roles,
    }
    return {
        "tokenizer.json": tokenizer.to_str(),
        "vocab.txt": "".join(f"{word}\n" for word, _ in sorted(vocabulary.items(), key=lambda item: item[1])),
        "tokenizer_config.json": json.dumps(settings, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(roles, indent=2) + "\n",
    }


def _normaliser(config: TrainTokenizerConfig) -> Any:
    from tokenizers import normalizers

    return normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=config.strip_accents, lowercase=config.lowercase
    )


def _bert_words() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.BertPreTokenizer()
