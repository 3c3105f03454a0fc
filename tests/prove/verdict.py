"""What a proof found, against what it promises: one table at the end, and the exit code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One figure and its limit."""

    what: str
    measure: str
    found: float
    limit: float
    better: Literal["lower", "higher"] = "lower"

    @property
    def holds(self) -> bool:
        """Whether the figure keeps the limit."""
        return self.found <= self.limit if self.better == "lower" else self.found >= self.limit


def judge(findings: list[Finding]) -> int:
    """Print the table; returns the exit code: 1 when a figure breaks its limit."""
    wide = max((len(one.what) for one in findings), default=0) + 2
    wider = max((len(one.measure) for one in findings), default=0) + 2
    print(f"\n{'run':<{wide}}{'measure':<{wider}}{'found':>12} {'limit':>13}")
    for one in findings:
        sign = "≤" if one.better == "lower" else "≥"
        verdict = "" if one.holds else "  BROKEN"
        print(f"{one.what:<{wide}}{one.measure:<{wider}}{one.found:>12.6g} {sign + ' ' + format(one.limit, '.6g'):>13}{verdict}")
    return int(not all(one.holds for one in findings))
