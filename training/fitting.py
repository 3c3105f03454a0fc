"""Whether a recipe fits its labels. Pure; no torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from corpus.labelled import LabelledData
from corpus.labels import class_counts
from foundation.errors import ConfigError
from training.config import METRICS, FinetuneConfig
from training.evaluation import check_gates


def fitting(recipe: FinetuneConfig, data: LabelledData) -> FinetuneConfig:
    """The recipe with the metric that ``auto`` stands for.

    Raises:
        ConfigError: A metric or a gate of another kind of label, weights or smoothing of numbers, or a weight of a class that there is not.
    """
    if data.kind == "number" and (recipe.class_weights != "none" or recipe.label_smoothing):
        raise ConfigError(f"{recipe.data.train}: labels are numbers, which have neither class_weights nor label_smoothing; leave them out")
    if data.kind != "number":
        class_weights(recipe.class_weights, data)
    known = METRICS[data.kind]
    check_gates(recipe.gates, data.kind, baseline=False)
    if recipe.metric != "auto" and recipe.metric not in known:
        raise ConfigError(f"metric: found {recipe.metric}, but labels of kind {data.kind} have {', '.join(known)}")
    return recipe.model_copy(update={"metric": known[0]}) if recipe.metric == "auto" else recipe


def class_weights(wanted: str | Mapping[str, float], data: LabelledData) -> np.ndarray:
    """(C,) float32: all 1, by frequency (rows / (classes × rows of the class)), or as given (others 1).

    Raises:
        ConfigError: A class that there is not.
    """
    weights_C = np.ones(len(data.labels), dtype=np.float32)
    if wanted == "balanced":
        counts_C = class_counts(data.train.labels, len(data.labels))
        if data.kind == "single":
            return (len(data.train) / (len(counts_C) * np.maximum(counts_C, 1))).astype(np.float32)
        return ((len(data.train) - counts_C) / np.maximum(counts_C, 1)).astype(np.float32)
    if isinstance(wanted, Mapping):
        for name, weight in wanted.items():
            if name not in data.labels:
                raise ConfigError(f"class_weights: found {name!r}, which is none of the classes: {', '.join(data.labels)}")
            weights_C[data.labels.index(name)] = weight
    return weights_C
