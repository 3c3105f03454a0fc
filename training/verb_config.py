"""Which recipe is of which verb."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from training.config import FinetuneConfig, PretrainConfig, RunConfig

Verb = Literal["pretrain", "finetune"]
KINDS: dict[Verb, type[RunConfig]] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}
"""Recipe of each verb."""


def verb_of(recipe: Any) -> Verb:
    """Of what a recipe is one, read or as a tree: the data of a pretraining is a folder, of a fine-tuning a group of keys."""
    if isinstance(recipe, RunConfig):
        return "pretrain" if isinstance(recipe, PretrainConfig) else "finetune"
    return "pretrain" if isinstance(recipe, Mapping) and isinstance(recipe.get("data"), str) else "finetune"
