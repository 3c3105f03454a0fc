"""Metrics of multi-label and regression models as pure functions of sums: mergeable across ranks by addition.

Single-label metrics are in ``metrics.py``. N = rows, C = labels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

REGRESSION_SUMS = 7
"""Length of ``regression_sums``."""


def multi_label_counts(
    truth_NC: np.ndarray, predicted_NC: np.ndarray
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Of flags (N, C): true positives, false positives and false negatives (C,), and how many rows have exactly the right labels."""
    right_NC = truth_NC & predicted_NC
    right_C, said_C, are_C = right_NC.sum(axis=0), predicted_NC.sum(axis=0), truth_NC.sum(axis=0)
    return right_C, said_C - right_C, are_C - right_C, int((truth_NC == predicted_NC).all(axis=1).sum())


def multi_label_metrics(
    true_positive_C: npt.NDArray[np.int64],
    false_positive_C: npt.NDArray[np.int64],
    false_negative_C: npt.NDArray[np.int64],
    exact: int,
    rows: int,
) -> dict[str, float]:
    """``micro_f1``, ``macro_f1`` and ``subset_accuracy`` from the sums of ``multi_label_counts``.

    A label that occurs neither as truth nor as prediction is left out of the macro average, as in ``classification_metrics``.
    """
    if rows == 0:
        return {"micro_f1": 0.0, "macro_f1": 0.0, "subset_accuracy": 0.0}
    said_and_are_C = 2 * true_positive_C + false_positive_C + false_negative_C
    total, present_C = said_and_are_C.sum(), said_and_are_C > 0
    f1_C = 2 * true_positive_C[present_C] / said_and_are_C[present_C]
    return {
        "micro_f1": float(2 * true_positive_C.sum() / total) if total else 0.0,
        "macro_f1": float(f1_C.mean()) if len(f1_C) else 0.0,
        "subset_accuracy": exact / rows,
    }


def regression_sums(truth_N: np.ndarray, predicted_N: np.ndarray) -> Floats:
    """(7,) n, Σt, Σp, Σt², Σp², Σtp, Σ|t−p|; those of two sets of rows add up to those of both together."""
    t_N, p_N = np.asarray(truth_N, dtype=np.float64), np.asarray(predicted_N, dtype=np.float64)
    sums = (len(t_N), t_N.sum(), p_N.sum(), t_N @ t_N, p_N @ p_N, t_N @ p_N, np.abs(t_N - p_N).sum())
    return np.array(sums, dtype=np.float64)


def regression_metrics(sums: Floats) -> dict[str, float]:
    """``pearson``, ``mae``, ``rmse`` and ``r2`` from ``regression_sums``.

    ``pearson`` is 0 where truth or prediction is constant; ``r2`` of a constant truth is 0 unless the prediction is exact (then 1).
    """
    n, t, p, tt, pp, tp, absolute = (float(value) for value in sums)
    if n == 0:
        return {"pearson": 0.0, "mae": 0.0, "rmse": 0.0, "r2": 0.0}
    # Differences of large sums: what rounding leaves of a zero may be negative.
    squared_error = max(0.0, tt - 2 * tp + pp)
    spread_t, spread_p = _spread(tt, t, n), _spread(pp, p, n)
    pearson = (tp - t * p / n) / (spread_t * spread_p) ** 0.5 if spread_t and spread_p else 0.0
    r2 = 1 - squared_error / spread_t if spread_t else float(squared_error == 0)
    return {"pearson": min(1.0, max(-1.0, pearson)), "mae": absolute / n, "rmse": (squared_error / n) ** 0.5, "r2": r2}


def spearman(truth_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Rank correlation, ties at their mean rank; needs all values at once. 0 where one side is constant."""
    return regression_metrics(regression_sums(_ranks(truth_N), _ranks(predicted_N)))["pearson"]


def best_constant_micro_f1(truth_NC: np.ndarray) -> float:
    """The largest micro-F1 that answering every row with the same labels reaches: the k most frequent ones, at the best k."""
    counts_C = -np.sort(-truth_NC.sum(axis=0))
    said_C = len(truth_NC) * np.arange(1, len(counts_C) + 1)
    total = counts_C.sum()
    return float((2 * np.cumsum(counts_C) / (said_C + total)).max()) if total else 0.0


def _spread(squares: float, total: float, n: float) -> float:
    """Sum of squared distances from the mean; 0 where nothing but rounding is left."""
    spread = squares - total * total / n
    return spread if spread > 1e-12 * squares else 0.0


def _ranks(values_N: np.ndarray) -> Floats:
    """(N,) ranks from 0, equal values at the mean of theirs."""
    _, place_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_ranks: Floats = ends - (counts + 1) / 2
    return mean_ranks[place_N]
