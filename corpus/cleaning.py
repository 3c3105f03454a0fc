"""Cleaning, one text at a time: repair, and the reason to drop. Pure; whoever calls it counts.

``repair`` is applied to every text, labelled ones too. ``reason_to_drop`` only decides about the packed corpus: a labelled row is never
dropped or moved by cleaning, so that a test set stays the test set.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

UnicodeForm = Literal["NFC", "NFKC"]

# Control and invisible formatting characters, except the line breaks and tabs that _SPACES handles and the joiners (U+200C, U+200D)
# that Persian, Indic scripts and emoji need.
_CONTROLS = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
)
# Every run of white space, no-break and ideographic spaces included.
_SPACES = re.compile(r"\s+")
_SPACES_IN_LINE = re.compile(r"[^\S\n]+")
_LINE_ENDS = re.compile(r" ?\n ?")
_BLANK_LINES = re.compile(r"\n{3,}")


def repair(text: str, form: UnicodeForm = "NFC") -> str:
    """Undo mojibake, normalise Unicode, remove control characters, fold white space; lines and paragraphs (blank lines) stay.

    Repairing a repaired text changes nothing.
    """
    once = _repair_once(text, form)
    # Removing a character can join two that then form another mojibake sequence or compose; rare, so looked at only when it changed.
    return once if once == text else _settle(once, form)


def one_line(repaired: str) -> str:
    """A repaired text with each run of white space made one space: the form of a labelled text."""
    return _SPACES.sub(" ", repaired)


def reason_to_drop(text: str, min_characters: int) -> str | None:
    """Why a repaired text does not go into the packed corpus, or None to keep it."""
    if not text:
        return "empty"
    return "too short" if len(text) < min_characters else None


def _settle(text: str, form: UnicodeForm) -> str:
    for _ in range(4):
        again = _repair_once(text, form)
        if again == text:
            break
        text = again
    return text


def _repair_once(text: str, form: UnicodeForm) -> str:
    import ftfy

    # Left alone: entities ("&lt;b&gt;" may be the very subject), and quotes, ligatures and full-width punctuation, which are right in
    # their languages.
    config = ftfy.TextFixerConfig(
        unescape_html=False,
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        normalization=None,
        explain=False,
    )
    fixed = unicodedata.normalize(form, ftfy.fix_text(text, config))
    folded = _LINE_ENDS.sub("\n", _SPACES_IN_LINE.sub(" ", _CONTROLS.sub("", fixed)))
    return _BLANK_LINES.sub("\n\n", folded).strip()
