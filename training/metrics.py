"""Classification metrics as pure functions of a confusion matrix: mergeable across ranks by addition."""

from __future__ import annotations

import numpy as np


def classification_metrics(confusion: np.ndarray) -> dict[str, float]:
    """``accuracy`` and ``macro_f1``.

    Args:
        confusion: (C, C) counts, true class by predicted class. Classes that occur neither as truth nor as prediction are left out of
            the macro average, as scikit-learn's ``f1_score`` does with the labels that are present.
    """
    total = confusion.sum()
    if total == 0:
        return {"accuracy": 0.0, "macro_f1": 0.0}
    right = np.diag(confusion)
    present = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = 2 * right[present > 0] / present[present > 0]
    return {"accuracy": float(right.sum() / total), "macro_f1": float(f1.mean())}


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) counts, true class by predicted class, of two (B,) arrays of class indices."""
    cells = truth.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)
