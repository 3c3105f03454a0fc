"""Which numbers a member of a population goes on with, asked of a Gaussian process: PB2 (Parker-Holder et al. 2020, arXiv 2002.02518).

The process learns from every stretch so far what its hyperparameters gained at its time, and the point with the highest upper confidence
bound is taken. What was chosen for one member counts as observed for the next, so that two do not go the same way. Pure.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tuning.config import ChoiceDimension, Dimension, IntegerDimension, Space, UniformDimension
from tuning.population import Explore, Gain

_CANDIDATES = 1_000
_LEAST = 4
"""Stretches, below which there is nothing to learn from."""
_BOUND = (0.2, 0.4)
"""The authors' c1 and c2: the bound lies sqrt(c1 + log(c2 t)) standard deviations above the mean after t stretches."""

Floats = npt.NDArray[np.float64]


class Bandit:
    """Explores as PB2 does.

    Args:
        seen: What stretches gained.
        step: At which members are compared.
        space: The study's.
        otherwise: Explores what is no number, and everything while there is too little to learn from.
    """

    def __init__(self, seen: Sequence[Gain], step: int, space: Space, otherwise: Explore) -> None:
        self._step, self._otherwise = step, otherwise
        # Of conditional dimensions a stretch may have none.
        self._numbers = {key: one for key, one in space.items() if not isinstance(one, ChoiceDimension) and not one.when}
        self._points = [[gain.since, *self._placed(gain.sampled)] for gain in seen if self._numbers.keys() <= gain.sampled.keys()]
        self._gains = [gain.gained for gain in seen if self._numbers.keys() <= gain.sampled.keys()]

    def __call__(self, sampled: Mapping[str, Any], random: np.random.Generator) -> dict[str, Any]:
        """A donor's hyperparameters to others."""
        found = self._otherwise(sampled, random)
        if len(self._gains) < _LEAST or not self._numbers:
            return found
        candidates = np.column_stack([np.full(_CANDIDATES, float(self._step)), random.random((_CANDIDATES, len(self._numbers)))])
        mean, deviation = self._believed(candidates)
        first, second = _BOUND
        bound = mean + math.sqrt(first + max(0.0, math.log(second * len(self._gains)))) * deviation
        best = int(np.argmax(bound))
        self._points.append(candidates[best].tolist())
        self._gains.append(float(mean[best]))
        chosen = {key: value_at(one, place) for (key, one), place in zip(self._numbers.items(), candidates[best][1:], strict=True)}
        return {key: chosen.get(key, value) for key, value in found.items()}

    def _placed(self, sampled: Mapping[str, Any]) -> list[float]:
        return [place_of(one, sampled[key]) for key, one in self._numbers.items()]

    def _believed(self, candidates: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the gain at each candidate."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        points = np.array(self._points)
        span = max(1.0, float(self._step))
        kernel = ConstantKernel() * Matern(np.ones(points.shape[1]), nu=2.5) + WhiteKernel()
        model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound: a number that does not matter
            model.fit(_scaled(points, span), np.array(self._gains))
        mean, deviation = model.predict(_scaled(candidates, span), return_std=True)
        return mean, deviation


def _scaled(points: Floats, span: float) -> Floats:
    """Steps as a share of those so far; the other columns lie between 0 and 1 already."""
    return np.column_stack([points[:, 0] / span, points[:, 1:]])


def place_of(dimension: Dimension, value: float) -> float:
    """Where a number lies between a dimension's bounds, 0 to 1."""
    low, high, value = (_bent(dimension, float(number)) for number in (dimension.low, dimension.high, value))  # type: ignore[union-attr]
    return (value - low) / (high - low)


def value_at(dimension: Dimension, place: float) -> Any:
    """The number that lies there; of a dimension with steps the nearest one."""
    assert not isinstance(dimension, ChoiceDimension)
    low, high = (_bent(dimension, float(number)) for number in (dimension.low, dimension.high))
    value = low + place * (high - low)
    value = math.exp(value) if _is_log(dimension) else value
    if isinstance(dimension, UniformDimension) and dimension.step is None:
        return min(dimension.high, max(dimension.low, value))
    points = dimension.points or ()
    return min(points, key=lambda point: abs(point - value))


def _is_log(dimension: Dimension) -> bool:
    return dimension.log if isinstance(dimension, IntegerDimension) else dimension.kind == "log_uniform"


def _bent(dimension: Dimension, value: float) -> float:
    return math.log(value) if _is_log(dimension) else value
