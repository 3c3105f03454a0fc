"""Recipes for the quality stage: the published rule sets, each off unless named, with the thresholds of their papers as defaults.

Every one was tuned on English web pages. Reference works, code and manuals break many of them without being bad text, so look at what a
group drops before trusting it. The rules are in ``quality.py``, ``boilerplate.py`` and ``language.py``. Imports no reader of anything.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from foundation.config import Config

LanguageCode = Literal[
    "ar", "de", "el", "en", "es", "fa", "fr", "he", "hi", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "th", "tr", "uk", "zh", "und"
]  # fmt: skip
"""ISO 639 codes of the languages that ``language.py`` can name; ``und`` is undetermined."""

# What ends a sentence, or a quotation that ends one, in scripts that mark it: Latin, Greek and Cyrillic; Chinese and Japanese; Arabic and
# Urdu; Devanagari; Armenian; Ethiopic; Burmese; Khmer.
END_MARKS = (*".!?\"'”’»", *"。！？．」』", *"؟۔", *"।॥", "։", *"።፧", "။", *"។៕")
BULLETS = ("•", "‣", "◦", "▪", "■", "-", "*")
POLICY_PHRASES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


class GopherConfig(Config):
    """Rae et al. 2021 (arXiv 2112.11446), appendix A1, quality filtering. Shares are of lines, or of words."""

    min_words: int = Field(default=50, ge=0)
    """Documents with fewer words are dropped."""
    max_words: int = Field(default=100_000, ge=1)
    """Documents with more words are dropped."""
    min_mean_word_characters: float = Field(default=3, ge=0)
    """Least mean length of a word, in characters. Characters that are words of their own (Chinese, Thai, …) are not counted in."""
    max_mean_word_characters: float = Field(default=10, ge=1)
    """Greatest mean length of a word, in characters."""
    max_symbols_per_word: float = Field(default=0.1, ge=0)
    """Most hash signs, and most ellipses, for each word; either is enough to drop."""
    max_bullet_lines: float = Field(default=0.9, ge=0, le=1)
    """Greatest share of lines that start with one of `bullets`."""
    bullets: tuple[str, ...] = BULLETS
    """What a bullet point is; the paper names none."""
    max_ellipsis_lines: float = Field(default=0.3, ge=0, le=1)
    """Greatest share of lines that end with an ellipsis."""
    min_alphabetic_words: float = Field(default=0.8, ge=0, le=1)
    """Least share of words that hold a letter."""
    min_stop_words: int = Field(default=2, ge=0)
    """Least number of different `stop_words` in a text that is mostly in Latin letters; other scripts are not asked. 0 turns it off."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """The paper's, for English: with them a text in another Latin-script language is dropped. Case makes no difference."""

    @model_validator(mode="after")
    def _can_be_met(self) -> GopherConfig:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words is {self.min_words} and max_words {self.max_words}; no text has both")
        if self.min_mean_word_characters > self.max_mean_word_characters:
            raise ValueError("min_mean_word_characters is greater than max_mean_word_characters; no text has both")
        if self.min_stop_words > len(set(self.stop_words)):
            raise ValueError(f"min_stop_words is {self.min_stop_words}, but stop_words holds only {len(set(self.stop_words))}")
        return self

    @field_validator("bullets", "stop_words")
    @classmethod
    def _no_empty_text(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return _not_empty(texts)


class GopherRepetitionConfig(Config):
    """Rae et al. 2021 (arXiv 2112.11446), appendix A1, repetition removal, table A1. A document above any of them is dropped."""

    max_duplicate_lines: float = Field(default=0.3, ge=0, le=1)
    """Greatest share of lines that repeat an earlier one."""
    max_duplicate_paragraphs: float = Field(default=0.3, ge=0, le=1)
    """Greatest share of paragraphs (separated by blank lines) that repeat an earlier one."""
    max_duplicate_line_characters: float = Field(default=0.2, ge=0, le=1)
    """Greatest share of characters in lines that repeat an earlier one."""
    max_duplicate_paragraph_characters: float = Field(default=0.2, ge=0, le=1)
    """Greatest share of characters in paragraphs that repeat an earlier one."""
    max_top_ngrams: tuple[tuple[int, float], ...] = ((2, 0.2), (3, 0.18), (4, 0.16))
    """(n, greatest share of characters in all occurrences of the most frequent run of n words)."""
    max_duplicate_ngrams: tuple[tuple[int, float], ...] = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))
    """(n, greatest share of characters covered by runs of n words that occurred before)."""

    @field_validator("max_top_ngrams", "max_duplicate_ngrams")
    @classmethod
    def _are_lengths_and_shares(cls, limits: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
        wrong = next((pair for pair in limits if pair[0] < 2 or not 0 <= pair[1] <= 1), None)
        if wrong is not None:
            raise ValueError(f"found {list(wrong)}; expected [n, share] with n from 2 and a share from 0 to 1")
        if len({n for n, _ in limits}) < len(limits):
            raise ValueError("two limits for the same n; keep one")
        return limits


class C4Config(Config):
    """Raffel et al. 2020 (JMLR 21/140), section 2.2: which lines of a page stay, and which pages.

    Without its list of bad words, its language filter and its removal of repeated three-sentence spans, which are stages of their own.
    """

    end_marks: tuple[str, ...] = END_MARKS
    """A line stays if it ends with one; empty keeps every line. The paper's are Latin; Thai and Lao have none, their lines stay."""
    min_words_per_line: int = Field(default=3, ge=0)
    """Lines with fewer words go. 3 in the paper, 5 in its released builder."""
    max_word_characters: int = Field(default=1_000, ge=1)
    """Lines with a longer piece without white space go; from the released builder. Scripts without spaces are not asked."""
    drop_javascript_lines: bool = True
    """Lines with the word javascript go: most are warnings to switch it on."""
    policy_phrases: tuple[str, ...] = POLICY_PHRASES
    """Lines with one of these go, whatever their case."""
    min_sentences: int = Field(default=5, ge=0)
    """Pages whose kept lines hold fewer sentences are dropped. 5 in the paper, 3 in its released builder."""
    drop_lorem_ipsum: bool = True
    """Pages with this place-holder text are dropped."""
    drop_curly_brackets: bool = True
    """Pages with a ``{`` anywhere are dropped, as code."""

    @field_validator("end_marks", "policy_phrases")
    @classmethod
    def _no_empty_text(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return _not_empty(texts)


class FineWebConfig(Config):
    """Penedo et al. 2024 (arXiv 2406.17557), section 3.4. A document that reaches any threshold is dropped."""

    punctuated_lines: float = Field(default=0.12, ge=0, le=1)
    """Dropped if the share of lines that end with one of `end_marks` is at most this."""
    end_marks: tuple[str, ...] = Field(default=END_MARKS, min_length=1)
    """Ends of sentences. Lines that end in Thai or Lao, which has none, count as punctuated."""
    duplicate_line_characters: float = Field(default=0.1, gt=0, le=1)
    """Dropped if the share of characters in repeated lines is at least this. The paper's; datatrove's default is 0.01."""
    short_lines: float = Field(default=0.67, gt=0, le=1)
    """Dropped if the share of lines shorter than `short_line_characters` is at least this."""
    short_line_characters: int = Field(default=30, ge=1)
    """Characters from which a line is not short."""

    @field_validator("end_marks")
    @classmethod
    def _no_empty_text(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return _not_empty(texts)


class QualityConfig(Config):
    """Which published rule sets judge a document. Write `gopher: {}` for one with its published thresholds."""

    gopher: GopherConfig | None = None
    """Gopher's quality rules. None: off."""
    gopher_repetition: GopherRepetitionConfig | None = None
    """Gopher's repetition rules. None: off."""
    c4: C4Config | None = None
    """C4's rules. None: off."""
    fineweb: FineWebConfig | None = None
    """FineWeb's rules. None: off."""


class BoilerplateConfig(Config):
    """Lines that belong to a web site rather than to its text."""

    patterns: tuple[tuple[str, str], ...] = (
        ("cookie notice", r"\b(?:(?:we|site|page) (?:use|uses|place|places) cookies|accept (?:all )?cookies|cookie (?:policy|settings))\b"),
        ("copyright", r"\ball rights reserved\b|^(?:copyright )?(?:©|\(c\)) ?(?:copyright )?\d{4}\b[^.]{0,80}\.?$"),
        ("click here", r"^click here\b|\bclick here (?:to|for)\b|\bclick here[.!]?$"),
        ("read more", r"^(?:(?:read|see|show|load|learn) more|continue reading)(?: (?:about|»|→|>)|[.…»→> ]*$)"),
        ("navigation", r"^(?=.*(?:^|[|»›·]) *(?:home|about(?: us)?|contact(?: us)?|log ?in|sign ?(?:in|up)|site ?map|privacy|"
                       r"terms|faq) *(?:[|»›·]|$))"
                       r"[^|»›·]{1,30}(?:[|»›·][^|»›·]{1,30}){2,}$"),
        ("sharing", r"^(?:share (?:this|on)|tweet this|follow us on|like us on|subscribe to our|sign up for our)\b"),
        ("page controls", r"^(?:(?:skip to (?:main )?content|back to top|leave a (?:comment|reply)|(?:previous|next) (?:page|post|article)|"
                          r"print this page|advertisement)[.!»→]?)$"),
    )  # fmt: skip
    """(name, regular expression) pairs, searched in each line, case ignored. Licence headers are not among them: they are text. Patterns
    that backtrack without bound make a build hang."""
    max_characters: int = Field(default=200, ge=1)
    """Longer lines are never boilerplate by pattern: prose may mention cookies."""
    max_line_documents: int | None = Field(default=None, ge=1)
    """Lines that occur in more documents than this are removed from all. None: off. Also takes away what licences and verses share."""
    min_counted_characters: int = Field(default=20, ge=1)
    """Shorter lines are not counted: ``}`` or "Example:" repeat without being boilerplate."""

    @field_validator("patterns")
    @classmethod
    def _compile(cls, patterns: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for name, pattern in patterns:
            try:
                matches_nothing = re.compile(pattern, re.IGNORECASE).search("") is not None
            except re.error as error:
                raise ValueError(f"{name}: {pattern!r} is not a regular expression: {error}") from None
            if matches_nothing:
                raise ValueError(f"{name}: {pattern!r} matches an empty line, so it would match every line; make it ask for something")
        return patterns


class LanguageConfig(Config):
    """Which languages stay."""

    keep: tuple[LanguageCode, ...] | None = None
    """Languages that stay; texts in others are dropped, undetermined ones too unless `und` is named. None: all."""
    min_share: float = Field(default=0.65, ge=0, le=1)
    """Least share that a kept language must have in its text; see ``language.Language.share``. FineWeb asks as much of another measure."""


def _not_empty(texts: tuple[str, ...]) -> tuple[str, ...]:
    if not all(texts):
        raise ValueError("holds an empty text, which every line has; remove it")
    return texts
