"""What labels are to a model: summed losses, evaluation counts and metrics, for one class of several, several at once, or numbers.

Pure functions of logits and labels. Losses are sums; ``count`` says what a step's sum is divided by, so that the result is transformers'
own loss, whatever micro-batches it was summed over. Shapes: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from corpus.labelled import LabelledData
from corpus.labelled_config import LabelKind
from foundation.bundle import TaskKind
from training.config import FinetuneConfig
from training.evaluation import LABEL_KINDS
from training.fitting import class_weights
from training.metrics import classification_metrics
from training.task_metrics import multi_label_metrics, regression_metrics

BUNDLE_TASKS: dict[LabelKind, TaskKind] = {kind: task for task, kind in LABEL_KINDS.items()}
"""Kind of label to a bundle's task."""
NUMBER_LABEL = "value"
"""Name of a regression's one output."""


class Task(Protocol):
    """One kind of label."""

    def count(self, labels_B: np.ndarray) -> float:
        """What the summed loss of these rows is divided by."""

    def loss_sum(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Scalar."""

    def counts(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """1-D float64, the summed loss first; summable over batches and ranks."""

    def metrics(self, counts: Sequence[float]) -> dict[str, float]:
        """Metrics from summed counts, ``validation_loss`` among them."""


@dataclass(frozen=True, eq=False)
class SingleLabel:
    """One class of C: cross-entropy over softmax."""

    weights_C: np.ndarray
    """float32; all 1 without weights."""
    smoothing: float = 0.0

    def count(self, labels_B: np.ndarray) -> float:
        """Weights of the rows' classes; rows, without weights."""
        return float(self.weights_C[labels_B].sum(dtype=np.float64))

    def loss_sum(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Cross-entropy, weighed and smoothed as PyTorch does."""
        weights_C = torch.from_numpy(self.weights_C).to(logits_BC.device)
        return functional.cross_entropy(logits_BC, labels_B, weight=weights_C, label_smoothing=self.smoothing, reduction="sum")

    def counts(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Plain cross-entropy, then the confusion matrix (true class by predicted class), flattened."""
        loss = functional.cross_entropy(logits_BC, labels_B, reduction="sum").double()
        classes = logits_BC.shape[1]
        confusion = torch.bincount(labels_B * classes + logits_BC.argmax(dim=1), minlength=classes**2).double()
        return torch.cat([loss.reshape(1), confusion])

    def metrics(self, counts: Sequence[float]) -> dict[str, float]:
        """``validation_loss``, ``accuracy``, ``macro_f1``."""
        classes = len(self.weights_C)
        confusion = np.asarray(counts[1:]).reshape(classes, classes)
        return {"validation_loss": counts[0] / max(1.0, float(confusion.sum())), **classification_metrics(confusion)}


@dataclass(frozen=True, eq=False)
class MultiLabel:
    """Any of C classes at once: binary cross-entropy over a sigmoid each, mean over rows and classes."""

    weights_C: np.ndarray
    """float32, of rows that have the class; all 1 without weights."""
    smoothing: float = 0.0

    def count(self, labels_B: np.ndarray) -> float:
        """Rows × classes."""
        return float(len(labels_B) * len(self.weights_C))

    def loss_sum(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy; smoothing draws each target towards one half."""
        targets_BC = labels_B * (1 - self.smoothing) + self.smoothing / 2
        weights_C = torch.from_numpy(self.weights_C).to(logits_BC.device)
        return functional.binary_cross_entropy_with_logits(logits_BC, targets_BC, pos_weight=weights_C, reduction="sum")

    def counts(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Plain loss, rows, rows with exactly the right classes, then true positives, false positives and false negatives (C each)."""
        loss = functional.binary_cross_entropy_with_logits(logits_BC, labels_B, reduction="sum").double()
        said, are = logits_BC > 0, labels_B > 0.5
        exact = (said == are).all(dim=1).sum()
        cells = [(said & are).sum(dim=0), (said & ~are).sum(dim=0), (~said & are).sum(dim=0)]
        return torch.cat([torch.stack([loss, torch.tensor(float(len(are)), device=loss.device), exact]).double(), *cells]).double()

    def metrics(self, counts: Sequence[float]) -> dict[str, float]:
        """``validation_loss``, ``micro_f1``, ``macro_f1``, ``subset_accuracy``, at a threshold of one half."""
        loss, rows, exact = counts[:3]
        cells = np.asarray(counts[3:]).round().astype(np.int64).reshape(3, -1)
        found = multi_label_metrics(cells[0], cells[1], cells[2], int(exact), int(rows))
        return {"validation_loss": loss / max(1.0, rows * cells.shape[1]), **found}


@dataclass(frozen=True, eq=False)
class Regression:
    """A number: squared error."""

    def count(self, labels_B: np.ndarray) -> float:
        """Rows."""
        return float(len(labels_B))

    def loss_sum(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Squared errors."""
        return functional.mse_loss(logits_BC.squeeze(1), labels_B, reduction="sum")

    def counts(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Squared errors, then ``regression_sums``."""
        truth, said = labels_B.double(), logits_BC.squeeze(1).double()
        number = torch.tensor(float(len(truth)), dtype=torch.float64, device=truth.device)
        sums = [number, truth.sum(), said.sum(), truth @ truth, said @ said, truth @ said, (truth - said).abs().sum()]
        return torch.stack([((truth - said) ** 2).sum(), *sums])

    def metrics(self, counts: Sequence[float]) -> dict[str, float]:
        """``validation_loss`` (mean squared error), ``pearson``, ``mae``, ``rmse``, ``r2``."""
        return {"validation_loss": counts[0] / max(1.0, counts[1]), **regression_metrics(np.asarray(counts[1:]))}


def task_of(recipe: FinetuneConfig, data: LabelledData) -> Task:
    """The task that the labels are, with the recipe's weights and smoothing; the recipe fits them (``fitting``)."""
    if data.kind == "number":
        return Regression()
    weights_C = class_weights(recipe.class_weights, data)
    return SingleLabel(weights_C, recipe.label_smoothing) if data.kind == "single" else MultiLabel(weights_C, recipe.label_smoothing)


def target_tensor(labels_B: np.ndarray) -> torch.Tensor:
    """Labels as the losses take them: int64 class indices, float32 flags or float32 numbers."""
    return torch.from_numpy(labels_B) if labels_B.dtype == np.int64 else torch.from_numpy(labels_B.astype(np.float32))
