"""What speaks for a promotion: recorded evaluations, compared on the champion's data. Pure; ``registry.py`` reads and keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from pydantic import BaseModel, ConfigDict

from foundation.bundle import Gate


class Evaluation(BaseModel):
    """One recorded evaluation of a version; of each data set the last one counts."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: str
    """UTC, ISO 8601."""
    data: str
    """Fingerprint of the labelled data."""
    split: str = "test"
    """Which of its rows: ``test``, ``validation`` or ``all``."""
    options: str = ""
    """Of ``raybert evaluate``, which read them; empty in records of earlier versions."""
    rows: int
    metrics: dict[str, float]
    gates: tuple[Gate, ...] = ()

    @property
    def on(self) -> tuple[str, str]:
        """Fingerprint and split: names the rows."""
        return self.data, self.split


@dataclass(frozen=True)
class Compared:
    """Two versions on the same rows."""

    data: str
    """Fingerprint."""
    split: str
    metrics: dict[str, tuple[float, float]]
    """Metric to the candidate's figure and the champion's."""


@dataclass(frozen=True)
class Allowed:
    """The promotion may go on."""

    compared: Compared | None
    """None: the champion was measured nowhere, or there is none."""


@dataclass(frozen=True)
class Refused:
    """It may not, unless it is forced."""

    objections: tuple[str, ...]
    compared: Compared | None


Decision = Allowed | Refused


def decide(ref: str, candidate: Sequence[Evaluation], own_gates: Sequence[Gate], champion: Sequence[Evaluation]) -> Decision:
    """Whether a version may become champion.

    Args:
        ref: Its name, for messages.
        candidate: Its evaluations.
        own_gates: Those that its training checked; they count where no evaluation checked any.
        champion: The champion's evaluations; empty when there is none, or when it is the candidate.
    """
    gates = [gate for evaluation in candidate for gate in evaluation.gates] or own_gates
    objections = [f"{gate.metric} is {gate.found:.4f}, wanted {gate.wanted:.4f}" for gate in gates if not gate.passed]
    if not gates:
        objections.append("no gate was checked (run `raybert evaluate` on it first)")
    compared = _compared(candidate, champion)
    if champion and compared is None:
        options = max(champion, key=lambda item: item.at).options or "--data FILE"
        objections.append(f"it was not measured on the champion's rows (run `raybert evaluate --model {ref} {options}`)")
    return Refused(tuple(objections), compared) if objections else Allowed(compared)


def objections_to(decision: Decision) -> tuple[str, ...]:
    """Empty when it is allowed."""
    match decision:
        case Allowed():
            return ()
        case Refused(objections):
            return objections
        case _:
            assert_never(decision)


def _compared(candidate: Iterable[Evaluation], champion: Iterable[Evaluation]) -> Compared | None:
    """On the rows that both were measured on, the last of them."""
    theirs = {evaluation.on: evaluation for evaluation in champion}
    shared = [evaluation for evaluation in candidate if evaluation.on in theirs]
    if not shared:
        return None
    ours = max(shared, key=lambda item: item.at)
    other = theirs[ours.on].metrics
    return Compared(ours.data, ours.split, {name: (figure, other[name]) for name, figure in ours.metrics.items() if name in other})
