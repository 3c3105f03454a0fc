"""Whether a recipe fits its labels. Pure; no torch."""

from __future__ import annotations

from corpus.labelled import LabelledData
from foundation.errors import ConfigError
from training.config import METRICS, FinetuneConfig
from training.evaluation import check_gates


def fitting(recipe: FinetuneConfig, data: LabelledData) -> FinetuneConfig:
    """The recipe with the metric that ``auto`` stands for.

    Raises:
        ConfigError: A metric or a gate of another kind of label.
    """
    known = METRICS[data.kind]
    check_gates(recipe.gates, data.kind, baseline=False)
    if recipe.metric != "auto" and recipe.metric not in known:
        raise ConfigError(f"metric: found {recipe.metric}, but labels of kind {data.kind} have {', '.join(known)}")
    return recipe.model_copy(update={"metric": known[0]}) if recipe.metric == "auto" else recipe
