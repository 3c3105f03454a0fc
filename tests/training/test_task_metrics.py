"""Multi-label and regression metrics are scikit-learn's and SciPy's, and add up over parts."""

from __future__ import annotations

import numpy as np
import pytest

from training.task_metrics import (
    REGRESSION_SUMS,
    best_constant_micro_f1,
    multi_label_counts,
    multi_label_metrics,
    regression_metrics,
    regression_sums,
    spearman,
)


def flags(seed: int, rows: int = 200, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.random((rows, classes)) < np.linspace(0.1, 0.6, classes)
    return truth, truth ^ (random.random((rows, classes)) < 0.2)


def test_multi_label_metrics_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, f1_score

    truth, predicted = flags(0)
    found = multi_label_metrics(*multi_label_counts(truth, predicted), rows=len(truth))
    wanted = {
        "micro_f1": f1_score(truth, predicted, average="micro"),
        "macro_f1": f1_score(truth, predicted, average="macro"),
        "subset_accuracy": accuracy_score(truth, predicted),
    }
    assert found == pytest.approx(wanted)


def test_counts_of_two_halves_add_up_to_those_of_the_whole() -> None:
    truth, predicted = flags(1)
    parts = [multi_label_counts(truth[rows], predicted[rows]) for rows in (slice(0, 60), slice(60, None))]
    sums = [first + second for first, second in zip(*parts, strict=True)]
    assert multi_label_metrics(*sums, rows=200) == multi_label_metrics(*multi_label_counts(truth, predicted), rows=200)


def test_a_label_that_nobody_has_or_says_does_not_lower_the_macro_average() -> None:
    truth, predicted = flags(2)
    nobody = np.zeros((len(truth), 1), dtype=np.bool_)
    wider = multi_label_counts(np.hstack([truth, nobody]), np.hstack([predicted, nobody]))
    assert (
        multi_label_metrics(*wider, rows=200)["macro_f1"]
        == multi_label_metrics(*multi_label_counts(truth, predicted), rows=200)["macro_f1"]
    )
    none = np.zeros((3, 2), dtype=np.bool_)
    assert multi_label_metrics(*multi_label_counts(none, none), rows=3) == {"micro_f1": 0.0, "macro_f1": 0.0, "subset_accuracy": 1.0}
    assert multi_label_metrics(*multi_label_counts(none[:0], none[:0]), rows=0)["subset_accuracy"] == 0.0


def test_regression_metrics_are_those_of_scikit_learn_and_merge() -> None:
    from scipy import stats
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    random = np.random.default_rng(3)
    truth = random.normal(100, 5, 300)
    predicted = truth + random.normal(1, 3, 300)
    sums = regression_sums(truth[:100], predicted[:100]) + regression_sums(truth[100:], predicted[100:])
    assert sums.shape == (REGRESSION_SUMS,)
    wanted = {
        "pearson": stats.pearsonr(truth, predicted)[0],
        "mae": mean_absolute_error(truth, predicted),
        "rmse": root_mean_squared_error(truth, predicted),
        "r2": r2_score(truth, predicted),
    }
    assert regression_metrics(sums) == pytest.approx(wanted, rel=1e-8)
    coarse = np.round(truth)
    assert spearman(coarse, predicted) == pytest.approx(stats.spearmanr(coarse, predicted)[0])


def test_a_constant_side_gives_numbers_and_no_division_by_zero() -> None:
    same, other = np.full(5, 0.1), np.arange(5.0)
    assert regression_metrics(regression_sums(same, same)) == pytest.approx({"pearson": 0.0, "mae": 0.0, "rmse": 0.0, "r2": 1.0}, abs=1e-7)
    assert regression_metrics(regression_sums(same, other))["r2"] == 0.0
    assert regression_metrics(regression_sums(other, same))["pearson"] == 0.0
    assert spearman(other, same) == 0.0
    assert regression_metrics(np.zeros(REGRESSION_SUMS))["rmse"] == 0.0


def test_the_best_constant_answer_is_found_among_all_sets_of_labels() -> None:
    truth, _ = flags(4, classes=4)
    every = []
    for number in range(1, 16):
        said = np.tile(np.array([bool(number >> bit & 1) for bit in range(4)]), (len(truth), 1))
        every.append(multi_label_metrics(*multi_label_counts(truth, said), rows=len(truth))["micro_f1"])
    assert best_constant_micro_f1(truth) == pytest.approx(max(every))
    assert best_constant_micro_f1(np.zeros((3, 2), dtype=np.bool_)) == 0.0
