"""A space in Optuna's terms: points drawn key by key, samplers. What can be wrong with one is refused in ``config.py``."""

from __future__ import annotations

import random
from itertools import product
from typing import TYPE_CHECKING, Any

from tuning.config import ChoiceDimension, SamplerConfig, Space, StudyConfig, UniformDimension, applies, in_order

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


def draw(trial: Any, space: Space) -> dict[str, Any]:
    """One point, key by key; keys whose condition does not hold are left out.

    Args:
        trial: What has Optuna's ``suggest_float``, ``suggest_int`` and ``suggest_categorical``.
        space: The study's.
    """
    sampled: dict[str, Any] = {}
    for key in in_order(space):
        dimension = space[key]
        if not applies(dimension, sampled):
            continue
        if isinstance(dimension, UniformDimension):
            is_log = dimension.kind == "log_uniform"
            sampled[key] = trial.suggest_float(key, dimension.low, dimension.high, log=is_log, step=dimension.step)
        elif isinstance(dimension, ChoiceDimension):
            sampled[key] = trial.suggest_categorical(key, list(dimension.values))
        else:
            sampled[key] = trial.suggest_int(key, dimension.low, dimension.high, log=dimension.log, step=dimension.step)
    return sampled


def first_points(config: StudyConfig) -> list[dict[str, Any]]:
    """What is tried before the sampler chooses; of a grid all of it, in an order of the seed.

    Optuna's own grid sampler ends its study at the last point, which only its own loop may.
    """
    points = [dict(point) for point in config.start_with]
    if config.sampler.kind != "grid":
        return points
    keys = list(config.space)
    grid = [dict(zip(keys, values, strict=True)) for values in product(*(config.space[key].points or () for key in keys))]
    random.Random(config.seed).shuffle(grid)
    return (points + [point for point in grid if point not in points])[: config.trials]


def new_sampler(config: SamplerConfig, seed: int) -> BaseSampler:
    """The sampler, seeded."""
    from optuna import samplers

    match config.kind:
        case "tpe":
            return samplers.TPESampler(seed=seed, n_startup_trials=config.first_random)
        case "random" | "grid":  # of a grid, all points are asked for beforehand
            return samplers.RandomSampler(seed=seed)
        case "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=config.first_random)
        case "cma_es":
            return samplers.CmaEsSampler(seed=seed, n_startup_trials=config.first_random)
