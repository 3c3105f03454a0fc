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
        ConfigError: A metric or a gate of another kind of label, weights or smoothing of numbers, a weight of a class that there is not, or
            validation rows trained on that are needed for thresholds.
    """
    if data.kind == "number" and (recipe.class_weights != "none" or recipe.label_smoothing):
        raise ConfigError(f"{recipe.data.train}: labels are numbers, which have neither class_weights nor label_smoothing; leave them out")
    if data.kind != "number":
        class_weights(recipe.class_weights, data)
    if recipe.data.train_on == "train_and_validation":
        _check_nothing_is_chosen(recipe, data)
    known = METRICS[data.kind]
    check_gates(recipe.gates, data.kind, baseline=False)
    if recipe.metric != "auto" and recipe.metric not in known:
        raise ConfigError(f"metric: found {recipe.metric}, but labels of kind {data.kind} have {', '.join(known)}")
    return recipe.model_copy(update={"metric": known[0]}) if recipe.metric == "auto" else recipe


def _check_nothing_is_chosen(recipe: FinetuneConfig, data: LabelledData) -> None:
    where = "data.train_on: found train_and_validation, but"
    if recipe.patience is not None:
        raise ConfigError(f"{where} patience stops by validation rows, which tell nothing when they are trained on; set patience=null")
    if data.kind == "list":
        raise ConfigError(
            f"{where} the share from which one of several classes applies is found on validation rows, which tell nothing when they are "
            "trained on; use data.train_on=train"
        )


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


def output_bias(recipe: FinetuneConfig, data: LabelledData) -> np.ndarray:
    """(C,) float32: with it, a head that knows nothing of a text answers with what the training rows say on the whole, which is where the
    loss is least: log of each class's share (``single``), log-odds (``list``), or the mean (``number``); after weights and smoothing."""
    if data.kind == "number":
        return np.array([np.mean(data.train.labels)], dtype=np.float32)
    counts_C = class_counts(data.train.labels, len(data.labels)).astype(np.float64)
    weighed_C = counts_C * class_weights(recipe.class_weights, data)
    smoothing, classes = recipe.label_smoothing, len(counts_C)
    # Half a row more with the class, and half a row more without: no class is impossible.
    if data.kind == "single":
        shares_C = (weighed_C + 0.5) / (weighed_C + 0.5).sum()
        found: np.ndarray = np.log(shares_C * (1 - smoothing) + smoothing / classes)
        return found.astype(np.float32)
    shares_C = (weighed_C + 0.5) / (weighed_C + len(data.train) - counts_C + 1)
    targets_C = shares_C * (1 - smoothing) + smoothing / 2
    found = np.log(targets_C / (1 - targets_C))
    return found.astype(np.float32)
