"""Quality rules of published corpora, one text at a time. Pure; whoever calls it counts, and keeps examples.

``reason_to_drop`` judges a repaired text that still has its line breaks; ``keep_lines`` then takes C4's bad lines out of a text that stays.
Each measure below is one of Gopher (Rae et al. 2021, arXiv 2112.11446, appendix A1), C4 (Raffel et al. 2020, JMLR 21/140, section 2.2) or
FineWeb (Penedo et al. 2024, arXiv 2406.17557, section 3.4); thresholds are in ``quality_config.py``. The papers leave open what a word or a
duplicate is; here:

- A word is a run of characters without white space, punctuation included. In scripts written without spaces (Chinese, Japanese, Thai, …)
  each letter is a word with the marks and punctuation around it, as BERT splits Chinese. Such words count, but have no length of interest;
  where they are the majority, a run of n words is taken to be one of 2n of them.
- A duplicate is an occurrence after the first, as in datatrove. Lines and words are compared as they are.
- Shares of characters are shares of those in lines, paragraphs or words, so that white space between these counts neither way.

Knows no language except by the script of its letters (``language.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count, islice

import numpy as np
import numpy.typing as npt

from corpus.boilerplate import filter_lines
from corpus.language import script_shares
from corpus.quality_config import C4Config, FineWebConfig, GopherConfig, GopherRepetitionConfig, QualityConfig

Positions = npt.NDArray[np.int64]

_ELLIPSES = ("...", "…")
# Thai and Lao, Burmese, Khmer, kana with its extension and half-width forms, without what is no letter; then Han with its extensions.
_SMALL_BLOCKS = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))
_UNSPACED = (
    "".join(chr(code) for first, last in _SMALL_BLOCKS for code in range(first, last + 1) if chr(code).isalpha())
    + "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNSPACED_LETTER = re.compile(f"[{_UNSPACED}]")
_UNSPACED_WORD = re.compile(rf"[^\w\s]*[{_UNSPACED}][^\w\s]*|[^\s{_UNSPACED}]+")
_UNSPACED_PER_WORD = 2
_LETTER = re.compile(r"[^\W\d_]")
_BLANK_LINES = re.compile(r"\n\s*\n")
# Thai and Lao mark the end of a sentence by a space, if at all.
_UNMARKED = ("\u0e00", "\u0eff")
# Where one sentence ends and another follows in the same line. Not before a small letter: that was an abbreviation.
_NEXT_SENTENCE = re.compile(
    rf"(?:[.!?؟۔।॥։።፧။។៕][\"'”’»)\]]*|[{_UNMARKED[0]}-{_UNMARKED[1]}])[^\S\n]+(?=[^\sa-z])|[。！？．][」』”’）]*(?=[^\s」』”’）。！？．])"
)


@dataclass(frozen=True)
class Page:
    """A text with its parts, each cut when it is first asked for."""

    text: str

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank, without white space at their ends."""
        return [line for raw in self.text.split("\n") if (line := raw.strip())]

    @cached_property
    def paragraphs(self) -> list[str]:
        """Pieces between blank lines."""
        return [piece for raw in _BLANK_LINES.split(self.text) if (piece := raw.strip())]

    @cached_property
    def words(self) -> list[str]:
        """Words as the module defines them."""
        return split_words(self.text)

    @cached_property
    def spaced_words(self) -> list[str]:
        """Words of scripts that put spaces between them."""
        return self.words if self.text.isascii() else [word for word in self.words if not _UNSPACED_LETTER.search(word)]

    @property
    def is_mostly_unspaced(self) -> bool:
        """Whether most words are letters of scripts without spaces."""
        return 2 * len(self.spaced_words) < len(self.words)


def split_words(text: str) -> list[str]:
    """Words as the module defines them."""
    if text.isascii() or not _UNSPACED_LETTER.search(text):
        return text.split()
    return _UNSPACED_WORD.findall(text)


def reason_to_drop(text: str, config: QualityConfig) -> str | None:
    """The first rule, of the groups that are on, that drops a repaired text, such as ``gopher: mean word length``; None keeps it.

    Give it the text before ``keep_lines``: what is measured are the lines of the page. C4's sentences are counted in the lines that stay.
    """
    return next(reasons_to_drop(text, config), None)


def reasons_to_drop(text: str, config: QualityConfig) -> Iterator[str]:
    """Every rule that drops a text, cheapest first; a rule is only worked out when the one before it has been taken."""
    return (name for name, is_broken in _findings(Page(text), config) if is_broken)


def _findings(page: Page, config: QualityConfig) -> Iterator[tuple[str, bool]]:
    if config.c4 is not None:
        yield "c4: curly bracket", config.c4.drop_curly_brackets and "{" in page.text
        yield "c4: lorem ipsum", config.c4.drop_lorem_ipsum and "lorem ipsum" in page.text.lower()
    if config.fineweb is not None:
        yield from _fineweb(page, config.fineweb)
    if config.gopher is not None:
        yield from _gopher(page, config.gopher)
    if config.gopher_repetition is not None:
        yield from _repetition(page, config.gopher_repetition)
    if config.c4 is not None:
        yield "c4: sentences", not has_sentences(page.text, config.c4)


def _gopher(page: Page, limits: GopherConfig) -> Iterator[tuple[str, bool]]:
    yield "gopher: word count", not limits.min_words <= len(page.words) <= limits.max_words
    length = mean_word_length(page)
    yield (
        "gopher: mean word length",
        (length is not None and not limits.min_mean_word_characters <= length <= limits.max_mean_word_characters),
    )
    yield "gopher: symbols", symbols_per_word(page) > limits.max_symbols_per_word
    yield "gopher: bullet lines", bullet_line_share(page, limits.bullets) > limits.max_bullet_lines
    yield "gopher: ellipsis lines", ellipsis_line_share(page) > limits.max_ellipsis_lines
    yield "gopher: alphabetic words", alphabetic_word_share(page) < limits.min_alphabetic_words
    yield "gopher: stop words", not has_stop_words(page, limits.stop_words, limits.min_stop_words)


def _fineweb(page: Page, limits: FineWebConfig) -> Iterator[tuple[str, bool]]:
    yield "fineweb: short lines", short_line_share(page, limits.short_line_characters) >= limits.short_lines
    yield "fineweb: duplicate lines", duplicate_shares(page.lines)[1] >= limits.duplicate_line_characters
    yield "fineweb: punctuation", punctuated_line_share(page, limits.end_marks) <= limits.punctuated_lines


def _repetition(page: Page, limits: GopherRepetitionConfig) -> Iterator[tuple[str, bool]]:
    elements, characters = duplicate_shares(page.lines)
    yield "gopher repetition: duplicate lines", elements > limits.max_duplicate_lines
    yield "gopher repetition: characters in duplicate lines", characters > limits.max_duplicate_line_characters
    elements, characters = duplicate_shares(page.paragraphs)
    yield "gopher repetition: duplicate paragraphs", elements > limits.max_duplicate_paragraphs
    yield "gopher repetition: characters in duplicate paragraphs", characters > limits.max_duplicate_paragraph_characters
    per_word = _UNSPACED_PER_WORD if page.is_mostly_unspaced else 1
    top = {n * per_word: (n, limit) for n, limit in limits.max_top_ngrams}
    duplicate = {n * per_word: (n, limit) for n, limit in limits.max_duplicate_ngrams}
    for repeated in repeated_ngrams(page.words, longest=max([*top, *duplicate], default=0)):
        if repeated.n in top:
            n, limit = top[repeated.n]
            yield f"gopher repetition: top {n}-gram", repeated.top_share() > limit
        if repeated.n in duplicate:
            n, limit = duplicate[repeated.n]
            yield f"gopher repetition: duplicate {n}-grams", repeated.duplicate_share() > limit


def mean_word_length(page: Page) -> float | None:
    """Gopher: mean characters of a word; None where most words are single characters anyway."""
    words = page.spaced_words
    return None if not words or page.is_mostly_unspaced else sum(map(len, words)) / len(words)


def symbols_per_word(page: Page) -> float:
    """Gopher: hash signs or ellipses for each word, whichever are more."""
    ellipses = sum(map(page.text.count, _ELLIPSES))
    return max(page.text.count("#"), ellipses) / max(len(page.words), 1)


def bullet_line_share(page: Page, bullets: tuple[str, ...]) -> float:
    """Gopher: share of lines that start with a bullet point."""
    return sum(line.startswith(bullets) for line in page.lines) / max(len(page.lines), 1)


def ellipsis_line_share(page: Page) -> float:
    """Gopher: share of lines that end with an ellipsis."""
    return sum(line.endswith(_ELLIPSES) for line in page.lines) / max(len(page.lines), 1)


def alphabetic_word_share(page: Page) -> float:
    """Gopher: share of words with at least one letter; of no words, all."""
    if not page.words:
        return 1.0
    mixed = [word for word in page.words if not word.isalpha()]
    return (len(page.words) - list(map(_LETTER.search, mixed)).count(None)) / len(page.words)


def has_stop_words(page: Page, stop_words: tuple[str, ...], wanted: int) -> bool:
    """Gopher: whether ``wanted`` different stop words occur, or the text is mostly in other letters than Latin ones."""
    found: set[str] = set()
    if wanted and stop_words:
        for match in _any_of(stop_words).finditer(page.text):
            found.add(match[0].lower())
            if len(found) >= wanted:
                return True
    return len(found) >= wanted or page.is_mostly_unspaced or script_shares(page.text).get("Latin", 0) < 0.5


def duplicate_shares(parts: Sequence[str]) -> tuple[float, float]:
    """Gopher (lines, paragraphs) and FineWeb (lines): share of parts that repeat an earlier one, and of characters in these."""
    distinct = set(parts)
    if len(distinct) == len(parts):
        return 0.0, 0.0
    # Not 1 - the rest: 3 of 10 must be 0.3 to the last bit, for a threshold of 0.3.
    characters = _characters(parts)
    return (len(parts) - len(distinct)) / len(parts), (characters - _characters(distinct)) / characters


def punctuated_line_share(page: Page, end_marks: tuple[str, ...]) -> float:
    """FineWeb: share of lines that end a sentence."""
    return sum(_ends_sentence(line, end_marks) for line in page.lines) / max(len(page.lines), 1)


def short_line_share(page: Page, characters: int) -> float:
    """FineWeb: share of lines with fewer characters."""
    return sum(len(line) < characters for line in page.lines) / max(len(page.lines), 1)


def has_sentences(text: str, c4: C4Config) -> bool:
    """C4: whether the lines of a page that stay hold enough sentences: one each, and one more wherever another begins inside a line."""
    kept, _ = keep_lines(text, c4)
    missing = c4.min_sentences - len(Page(kept).lines)
    return missing <= 0 or sum(1 for _ in islice(_NEXT_SENTENCE.finditer(kept), missing)) == missing


def keep_lines(text: str, c4: C4Config) -> tuple[str, dict[str, int]]:
    """The text without the lines that C4 leaves out; paragraphs stay apart. Doing it twice changes nothing.

    Returns:
        The text, and how many lines went for which reason; a reason that took none is absent.
    """
    lowered = text.lower()
    phrases = tuple(phrase.lower() for phrase in c4.policy_phrases if phrase.lower() in lowered)
    has_javascript = c4.drop_javascript_lines and "javascript" in lowered
    removed: dict[str, int] = {}

    def is_kept(line: str) -> bool:
        reason = _reason_to_drop_line(line.strip(), c4, phrases, has_javascript)
        if reason is not None:
            removed[reason] = removed.get(reason, 0) + 1
        return reason is None

    return filter_lines(text, is_kept)[0], removed


def _reason_to_drop_line(line: str, c4: C4Config, phrases: Iterable[str], has_javascript: bool) -> str | None:
    if c4.end_marks and (line.endswith(_ELLIPSES) or not _ends_sentence(line, c4.end_marks)):
        return "no end mark"
    words = split_words(line)
    if len(words) < c4.min_words_per_line:
        return "few words"
    if len(line) > c4.max_word_characters and max(map(len, words)) > c4.max_word_characters:
        return "long word"
    lowered = line.lower() if phrases or has_javascript else ""
    if has_javascript and "javascript" in lowered:
        return "javascript"
    return "policy" if any(phrase in lowered for phrase in phrases) else None


@dataclass(frozen=True)
class RepeatedNgrams:
    """Runs of n words that occur more than once. W = words of the text, R = occurrences, G = different runs."""

    n: int
    starts: Positions
    """(R,) number of the first word of each, grouped by run and ascending within."""
    counts: Positions
    """(G,) occurrences of each run."""
    lengths: Positions
    """(W,) characters of every word."""

    def top_share(self) -> float:
        """Gopher: share of characters in all occurrences of the most frequent run, or the longest of several; above 1 if they overlap."""
        most = self.counts.max()
        where = self.starts[self._firsts[self.counts == most]]
        characters = self.lengths[where[:, None] + np.arange(self.n)].sum(axis=1).max()
        return float(most * characters / self.lengths.sum())

    def duplicate_share(self) -> float:
        """Gopher: share of characters covered by occurrences after the first; none is counted twice."""
        is_repeat = np.ones(len(self.starts), dtype=np.bool_)
        is_repeat[self._firsts] = False
        starts = self.starts[is_repeat]
        steps = np.zeros(len(self.lengths) + 1, dtype=np.int64)
        steps[starts] += 1
        steps[starts + self.n] -= 1
        return float(self.lengths[np.cumsum(steps[:-1]) > 0].sum() / self.lengths.sum())

    @property
    def _firsts(self) -> Positions:
        """(G,) where in ``starts`` the first occurrence of each run is."""
        return np.cumsum(self.counts) - self.counts


def repeated_ngrams(words: Sequence[str], longest: int) -> Iterator[RepeatedNgrams]:
    """For n = 2, 3, … up to ``longest``, the runs of n words that occur more than once; ends where there are none.

    Exact, without hashing: a run can only repeat where both runs of n - 1 words in it do, and is named by their two numbers, so that each
    length is looked for in what is left of the one before, which in prose is soon nothing.
    """
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    # A word's number is the position of its first occurrence; -1 stands for what does not repeat.
    first_seen: dict[str, int] = {}
    numbers = np.fromiter(map(first_seen.setdefault, words, count()), dtype=np.int64, count=len(words))
    numbers[np.bincount(numbers)[numbers] == 1] = -1
    different = len(words)
    for n in range(2, longest + 1):
        starts = np.flatnonzero((numbers[:-1] >= 0) & (numbers[1:] >= 0))
        keys = numbers[starts] * different + numbers[starts + 1]
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        is_border = np.ones(len(keys) + 1, dtype=np.bool_)
        is_border[1:-1] = keys[1:] != keys[:-1]
        borders = np.flatnonzero(is_border)
        counts = borders[1:] - borders[:-1]
        is_repeated = counts > 1
        if not is_repeated.any():
            return
        repeated = starts[order[np.repeat(is_repeated, counts)]]
        counts = counts[is_repeated]
        yield RepeatedNgrams(n, repeated, counts, lengths)
        different = len(counts)
        numbers = np.full(len(words), -1)
        numbers[repeated] = np.repeat(np.arange(different), counts)


def _ends_sentence(line: str, end_marks: tuple[str, ...]) -> bool:
    return line.endswith(end_marks) or _UNMARKED[0] <= line[-1] <= _UNMARKED[1]


def _characters(parts: Iterable[str]) -> int:
    return sum(map(len, parts))


@lru_cache(maxsize=16)
def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
