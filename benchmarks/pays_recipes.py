"""What ``pretraining_pays`` tries: pretrainings by name, each against the same start without one. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Texts = Literal["general", "task"]
Start = Literal["scratch", "modern", "minilm"]


@dataclass(frozen=True)
class Stage:
    """One pretraining run; its schedule ends with its time."""

    texts: Texts
    """``general``: the corpus. ``task``: the texts of the labelled training rows, without their labels."""
    minutes: float
    peak_lr: float
    rows_per_step: int = 16
    mask_share: float = 0.15
    final_share: float | None = None
    whole_words: bool = False
    layer_decay: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """A start and what it is pretrained on, stage after stage; without stages it is what the others are measured against."""

    name: str
    start: Start
    stages: tuple[Stage, ...] = ()

    @property
    def minutes(self) -> float:
        """Of all stages."""
        return sum(stage.minutes for stage in self.stages)

    def upto(self, stages: int) -> dict[str, Any]:
        """What a model after so many stages follows from."""
        return {"start": self.start, "stages": [asdict(stage) for stage in self.stages[:stages]]}


_SIZES = {"layers": 4, "hidden": 192}
NEW_MODELS: dict[Start, dict[str, Any]] = {"scratch": _SIZES, "modern": {"family": "modernbert", **_SIZES}}
"""Those from scratch: BERT, whose classifier reads the first token, and ModernBERT, whose classifier reads the mean of all."""
VOCABULARY = 8_192
"""Of both."""


def falling(texts: Texts, minutes: float, peak_lr: float) -> Stage:
    """A stage whose masked share falls from 30 % to 15 %."""
    return Stage(texts, minutes, peak_lr, mask_share=0.3, final_share=0.15)


RECIPES = (
    Recipe("scratch", "scratch"),
    Recipe("scratch-general-15", "scratch", (falling("general", 15, 2e-3),)),
    Recipe("scratch-task-15", "scratch", (falling("task", 15, 2e-3),)),
    Recipe("modern", "modern"),
    Recipe("modern-general-15", "modern", (falling("general", 15, 2e-3),)),
    Recipe("modern-task-15", "modern", (falling("task", 15, 2e-3),)),
    Recipe("minilm", "minilm"),
    Recipe("minilm-general-15", "minilm", (Stage("general", 15, 1e-4),)),
    Recipe("minilm-task-15", "minilm", (Stage("task", 15, 1e-4),)),
)
QUICK_RECIPES = (
    Recipe("scratch", "scratch"),
    Recipe("scratch-task-quick", "scratch", (falling("task", 1, 2e-3),)),
)


@dataclass(frozen=True)
class FineTuning:
    """How every model of one start is fine-tuned."""

    rates: tuple[float, ...]
    """Ascending. The best on validation rows is taken, for each model and number of labels."""
    epochs: dict[int | None, float]
    """By labels a class; None is all of them."""
    rows_per_step: dict[int | None, int]


_FROM_SCRATCH = FineTuning((2.5e-4, 5e-4, 1e-3, 2e-3), {10: 15, 100: 8, None: 3}, {10: 16, 100: 32, None: 32})
FINE_TUNING: dict[Start, FineTuning] = {
    "scratch": _FROM_SCRATCH,
    "modern": _FROM_SCRATCH,
    "minilm": FineTuning((1e-4, 2e-4, 4e-4), {10: 15, 100: 4, None: 1}, {10: 16, 100: 32, None: 32}),
}
LONGEST = 32
"""Tokens of a labelled text; those behind are cut, which halves the hours."""
LABELS: tuple[int | None, ...] = (10, 100, None)
CHOSEN_AT: dict[int | None, int] = {10: 10, 100: 100, None: 100}
"""Labels a class at which the learning rate is chosen: three whole trainings on all of them would take longer than everything else."""
ALL_RATES_AT = 10
"""Labels a class at which all rates are tried; with more, the best one there and the next lower one: the steps are more, and each is
minutes."""
SEEDS = (1, 2, 3)
CHOOSING_SEED = 0
CONFIRMING_SEEDS = (11, 12, 13)
"""Of the best cell and what it is compared with: among many cells, one looks good by its seeds alone."""


def told(labels: int | None) -> str:
    """Labels a class, for people."""
    return "all" if labels is None else str(labels)
