"""The best trials with other seeds: which to train once more, and what their scores say of each other. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tuning.config import RepeatConfig
from tuning.record import Trial

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Repeated:
    """One trial's scores with other seeds; its own score, by which it was chosen, is not among them."""

    trial: int
    scores: dict[int, float]
    """By seed."""
    mean: float
    low: float | None
    """Where the mean of more seeds would lie, with 95 % confidence, by Student's distribution; None of a single score."""
    high: float | None
    differs: bool | None
    """From the best mean, by a paired t-test at 5 % over the seeds that both have; None of the best itself, or without two such seeds."""


def wanted(trials: Iterable[Trial], repeat: RepeatConfig | None, mode: str, seed: int) -> list[tuple[Trial, int]]:
    """Trials to train once more, each with the seeds for it, the best first.

    Args:
        trials: Of the search.
        repeat: How many; None asks for none.
        mode: ``max`` or ``min``.
        seed: The recipe's own.
    """
    if repeat is None:
        return []
    scored = [trial for trial in trials if trial.score is not None and trial.state in ("finished", "stopped") and not trial.over]
    sign = 1 if mode == "max" else -1
    best = sorted(scored, key=lambda trial: -sign * (trial.score or 0.0))[: repeat.top]
    return [(trial, seed + 1 + number) for trial in best for number in range(repeat.seeds)]


def compare(repeats: Mapping[tuple[int, int], Trial], mode: str) -> tuple[Repeated, ...]:
    """What repeats say, the best mean first; those that failed or have not ended are left out.

    Args:
        repeats: By trial and seed.
        mode: ``max`` or ``min``.
    """
    scores: dict[int, dict[int, float]] = {}
    for (number, seed), trial in sorted(repeats.items()):
        if trial.score is not None and trial.state == "finished":
            scores.setdefault(number, {})[seed] = trial.score
    sign = 1 if mode == "max" else -1
    ranked = sorted(scores, key=lambda number: -sign * statistics.mean(scores[number].values()))
    return tuple(_repeated(number, scores[number], None if number == ranked[0] else scores[ranked[0]]) for number in ranked)


def _repeated(number: int, scores: dict[int, float], best: Mapping[int, float] | None) -> Repeated:
    low, high = _interval([*scores.values()])
    return Repeated(number, scores, statistics.mean(scores.values()), low, high, None if best is None else _differs(scores, best))


def _interval(scores: list[float]) -> tuple[float | None, float | None]:
    from scipy import stats

    if len(scores) < 2:
        return None, None
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(scores) - 1) * statistics.stdev(scores) / len(scores) ** 0.5
    return statistics.mean(scores) - half, statistics.mean(scores) + half


def _differs(scores: Mapping[int, float], best: Mapping[int, float]) -> bool | None:
    from scipy import stats

    differences = [best[seed] - score for seed, score in scores.items() if seed in best]
    if len(differences) < 2:
        return None
    if len({*differences}) == 1:  # no spread, of which the test would make a division by zero
        return differences[0] != 0
    return bool(stats.ttest_1samp(differences, 0.0).pvalue < 1 - CONFIDENCE)
