"""Whether a trial's model keeps to a study's constraints. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuning.config import ConstraintsConfig


def excesses(figures: Mapping[str, Any], constraints: ConstraintsConfig | None) -> dict[str, float]:
    """By how much each constrained figure is beyond its most, as a share of that; 0 and less keeps to it.

    Args:
        figures: Of a report; one that was not measured is left out.
        constraints: The study's.
    """
    limits = constraints.limits if constraints else {}
    return {name: figures[name] / limit - 1 for name, limit in limits.items() if name in figures}


def broken(figures: Mapping[str, Any], constraints: ConstraintsConfig | None) -> dict[str, float]:
    """The figures that are beyond their most."""
    return {name: figures[name] for name, excess in excesses(figures, constraints).items() if excess > 0}


def told(over: Mapping[str, float], constraints: ConstraintsConfig | None) -> str:
    """``latency_ms is 23.1, at most 20``, for each."""
    limits = constraints.limits if constraints else {}
    return "; ".join(f"{name} is {value:.4g}, at most {limits[name]:g}" for name, value in over.items() if name in limits)
