"""A corpus with things planted in it that a build has to find: copies, near-copies, personal data, passages of an evaluation set.

Everything that is planted is known by its row number, so that what the build kept says what it found.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from corpus.pii import PiiKind
from tests.support.alike import changed
from tests.support.personal import LOOKALIKES, PLANTERS, SENTENCES, bare, entries

LEAST_WORDS = 50
"""Of the documents that copies are made of: of a shorter one, too few words are 5 %."""
_FILLING_WORDS = 60


@dataclass
class Planted:
    """Texts in row order, and the row numbers of what was planted. ``copies`` and ``near`` map a row to the row it was made of."""

    texts: list[str]
    originals: int
    """The first so many texts are the corpus as it is."""
    evaluation: list[str]
    copies: dict[int, int] = field(default_factory=dict)
    near: dict[int, int] = field(default_factory=dict)
    personal: dict[PiiKind, dict[int, str]] = field(default_factory=dict)
    """Kind to row to the string that must not be left in it."""
    control: set[int] = field(default_factory=set)
    """Rows that hold what only looks like personal data."""
    evaluated: set[int] = field(default_factory=set)
    """Rows that hold an evaluation text, or twenty words of one."""

    def add(self, text: str) -> int:
        """Append a text; returns its row number."""
        self.texts.append(text)
        return len(self.texts) - 1


def plant(texts: Sequence[str], chance: random.Random, *, each: int = 1_000, evaluation: int = 50) -> Planted:
    """Plant ``each`` exact copies, near-copies (5 % of the words changed) and strings of each kind of personal data, and the texts of an
    evaluation set of ``evaluation`` documents, which are taken out of the corpus first.
    """
    long = [number for number, text in enumerate(texts) if len(text.split()) >= LEAST_WORDS]
    held_out = set(chance.sample(long, evaluation))
    planted = Planted(
        texts=[text for number, text in enumerate(texts) if number not in held_out],
        originals=len(texts) - evaluation,
        evaluation=[texts[number] for number in sorted(held_out)],
    )
    long = [number for number, text in enumerate(planted.texts) if len(text.split()) >= LEAST_WORDS]
    words = [word for number in chance.sample(long, 500) for word in planted.texts[number].split() if word.isalpha()]

    def filling() -> str:
        return " ".join(chance.choices(words, k=_FILLING_WORDS))

    chosen = chance.sample(long, 2 * each)
    for number in chosen[:each]:
        planted.copies[planted.add(planted.texts[number])] = number
    for number in chosen[each:]:
        planted.near[planted.add(changed(planted.texts[number], 0.05, chance))] = number
    for kind, make in PLANTERS.items():
        planted.personal[kind] = {}
        for _ in range(each):
            value = make(chance)
            row = planted.add(f"{filling()}\n{chance.choice(SENTENCES).replace('{}', value)}\n{filling()}")
            planted.personal[kind][row] = bare(kind, value)
    for _ in range(each):
        planted.control.add(planted.add(f"{filling()}\nIt says {chance.choice(entries(LOOKALIKES))} there.\n{filling()}"))
    for text in planted.evaluation:
        planted.evaluated.add(planted.add(text))
        start = chance.randrange(len(text.split()) - 20)
        passage = " ".join(text.split()[start : start + 20])
        planted.evaluated.add(planted.add(f"{filling()} {passage} {filling()}"))
    return planted
