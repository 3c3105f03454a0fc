"""Who may become champion."""

from __future__ import annotations

import pytest

from foundation.bundle import Gate
from foundation.evidence import Allowed, Evaluation, Refused, decide

PASSED, FAILED = Gate.check("accuracy", 0.8, 0.9), Gate.check("macro_f1", 0.8, 0.5)


def measured(data: str, accuracy: float, *gates: Gate, at: int = 1) -> Evaluation:
    return Evaluation(
        at=f"2026-01-0{at}T00:00:00+00:00",
        data=data,
        options=f"--data {data}.csv",
        rows=9,
        metrics={"accuracy": accuracy, "macro_f1": 0.5},
        gates=gates,
    )


def test_without_a_champion_that_was_measured_passed_gates_are_enough() -> None:
    assert decide("m/1", [], [PASSED], []) == Allowed(None)
    assert decide("m/1", [measured("a", 0.9, PASSED)], [], []) == Allowed(None)


@pytest.mark.parametrize(
    ("evaluations", "own", "objection"),
    [
        ([], [], "no gate was checked"),
        ([], [FAILED], "macro_f1 is 0.5000, wanted 0.8000"),
        ([measured("a", 0.9, PASSED), measured("b", 0.9, FAILED)], [], "macro_f1 is 0.5000, wanted 0.8000"),
    ],
)
def test_each_gate_that_failed_or_their_lack_is_an_objection(evaluations: list[Evaluation], own: list[Gate], objection: str) -> None:
    decision = decide("m/1", evaluations, own, [])
    assert isinstance(decision, Refused)
    assert objection in decision.objections[0]


def test_gates_of_evaluations_stand_above_those_of_training() -> None:
    assert decide("m/1", [measured("a", 0.9, PASSED)], [FAILED], []) == Allowed(None)


def test_a_champion_that_was_measured_asks_for_the_same_data() -> None:
    champion = [measured("a", 0.7, at=1), measured("b", 0.6, at=2)]
    refused = decide("m/2", [measured("c", 0.9, PASSED)], [], champion)
    assert isinstance(refused, Refused)
    assert refused.objections == ("it was not measured on the champion's rows (run `raybert evaluate --model m/2 --data b.csv`)",)


def test_both_are_compared_on_the_last_data_that_they_share_even_when_it_is_worse() -> None:
    champion = [measured("a", 0.95), measured("b", 0.6)]
    allowed = decide("m/2", [measured("a", 0.9, PASSED, at=2), measured("b", 0.7, at=1)], [], champion)
    assert isinstance(allowed, Allowed)
    assert allowed.compared is not None
    assert (allowed.compared.data, allowed.compared.metrics["accuracy"]) == ("a", (0.9, 0.95))


def test_another_split_of_the_same_data_is_not_the_same_rows() -> None:
    champion = [measured("a", 0.9).model_copy(update={"split": "validation"})]
    assert isinstance(decide("m/2", [measured("a", 0.9, PASSED)], [], champion), Refused)
