from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.cells import Cells, OutOfTime
from benchmarks.pretrain_throughput import fastest
from benchmarks.turns import NEVER, Side, steps_in

COUNTING = """
from benchmarks.programs.turns import conversation
requests, answer = conversation()
total = 0
print("noise that is no answer")
for request in requests:
    total += request["count"]
    answer({"total": total, "steps": min(request["count"], 40), "seconds": 2.0})
"""


def program(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_side_answers_in_turn_and_remembers_what_it_did() -> None:
    with Side(program(COUNTING), threads=1) as one, Side(program(COUNTING), threads=1) as other:
        assert [one.ask({"count": 2})["total"], other.ask({"count": 5})["total"], one.ask({"count": 3})["total"]] == [2, 5, 5]


def test_a_side_that_ends_is_an_error_with_its_last_words() -> None:
    with Side(program("raise SystemExit('no luck')"), threads=1) as side, pytest.raises(RuntimeError, match=r"exit code 1\nno luck"):
        side.ask({})


def test_a_side_ends_when_nobody_asks_for_more() -> None:
    with Side(program(COUNTING), threads=1) as side:
        side.ask({"count": 1})
    assert side.ended == 0


def test_a_side_has_the_threads_that_it_is_given() -> None:
    code = "import os; from benchmarks.programs.turns import conversation; _, answer = conversation(); answer(dict(os.environ))"
    with Side(program(code), threads=3) as side:
        assert side.ask({})["OMP_NUM_THREADS"] == "3"


def test_steps_for_a_time_follow_from_the_rate_after_the_first_ones() -> None:
    assert steps_in(program(COUNTING), 10.0, 1) == 200
    assert NEVER > 200


def test_a_cell_is_made_once_and_another_recipe_makes_another(tmp_path: Path) -> None:
    made: list[int] = []

    def make(number: int) -> dict[str, int]:
        made.append(number)
        return {"answer": number}

    assert Cells(tmp_path).find({"seed": 1, "rate": 0.1}, lambda: make(1)) == {"answer": 1}
    # Another session, the same recipe in another order.
    assert Cells(tmp_path).find({"rate": 0.1, "seed": 1}, lambda: make(2)) == {"answer": 1}
    assert Cells(tmp_path).find({"rate": 0.2, "seed": 1}, lambda: make(3)) == {"answer": 3}
    assert made == [1, 3]


def test_a_cell_that_fails_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        Cells(tmp_path).find({}, lambda: {"answer": 1 // 0})
    assert Cells(tmp_path).get({}) is None


def test_without_minutes_finished_cells_are_given_and_none_is_begun(tmp_path: Path) -> None:
    Cells(tmp_path).find({"seed": 1}, lambda: {"answer": 1})
    over = Cells(tmp_path, minutes=0)
    assert over.find({"seed": 1}, lambda: {"answer": 2}) == {"answer": 1}
    with pytest.raises(OutOfTime, match="go on"):
        over.find({"seed": 2}, lambda: {"answer": 2})


def test_a_setting_that_fails_is_left_out_unless_all_do() -> None:
    rates = "from benchmarks.programs.turns import conversation\nrequests, answer = conversation()\n"
    rates += "for request in requests: answer({'tokens': %d, 'seconds': 1.0})"
    commands = {"slow": program(rates % 10), "fast": program(rates % 30), "broken": program("raise SystemExit('no luck')")}
    assert fastest(commands, threads=1) == ("fast", {"slow": 10.0, "fast": 30.0, "broken": 0.0})
    with pytest.raises(RuntimeError, match="no luck"):
        fastest({"broken": commands["broken"]}, threads=1)
