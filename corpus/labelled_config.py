"""What a labelled row may hold, and what becomes of each finding about labelled rows. Imports no reader of anything."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from foundation.config import Config

LabelKind = Literal["single", "list", "number"]
Severity = Literal["refuse", "warn", "ignore"]


class ChecksConfig(Config):
    """What becomes of each finding about labelled rows. Two texts are the same when they differ in white space and letter case only."""

    empty_texts: Severity = "refuse"
    """Rows without a text; with `warn` or `ignore` they stay, as empty texts."""
    unseen_labels: Severity = "refuse"
    """Labels of validation or test that no training row has; with `warn` or `ignore` they become classes that nothing is learnt of."""
    conflicts: Severity = "warn"
    """The same text with different labels."""
    leaks: Severity = "warn"
    """The same text in two splits."""
    duplicates: Severity = "warn"
    """The same text more than once in a split."""
    small_classes: Severity = "warn"
    """Classes with fewer than `smallest_class` training rows."""
    imbalance: Severity = "warn"
    """The largest class has more than `imbalance_ratio` times the training rows of the smallest."""
    long_texts: Severity = "warn"
    """Texts that are cut at `max_length` tokens; looked for where a model and its tokenizer are known."""
    smallest_class: int = Field(default=10, ge=1)
    """Training rows from which a class is not small."""
    imbalance_ratio: float = Field(default=100.0, ge=1)
    """Largest to smallest class."""


def check_fractions(validation: float, test: float) -> None:
    """Refuse shares that leave nothing to train on."""
    if validation + test >= 1:
        raise ValueError(f"validation_fraction is {validation:g} and test_fraction {test:g}; together they must leave rows to train on")


def check_separator(kind: LabelKind, separator: str | None) -> None:
    """Refuse a separator of what is no list."""
    if separator is not None and (kind != "list" or not separator):
        raise ValueError(f"label_separator is {separator!r}; it stands between the classes of label_kind: list, and is not empty")
