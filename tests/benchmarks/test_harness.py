from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.__main__ import names
from benchmarks.harness import NOT_MET, alternate, call, run, take_turns
from benchmarks.reporting import as_markdown, report
from benchmarks.rows import GOALS, Goal, Kind, Row, Samples, goal_of, row

FASTER = Goal(goal=2.0, unit="rows/s", better="higher", why="because")
SHORTER = replace(FASTER, unit="s", better="lower")
figures = st.floats(1e-6, 1e6)
taken = st.builds(Samples, st.lists(figures, min_size=1, max_size=5).map(tuple), st.lists(figures, min_size=1, max_size=5).map(tuple))


def test_ours_and_the_peer_take_turns_and_each_is_first_in_every_other_round() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    samples = alternate(lambda: side("o"), lambda: side("p"), 3, warmup=1)
    assert "".join(calls) == "op" + "po" + "op" + "po"
    assert samples == Samples(ours=(4.0, 5.0, 8.0), peer=(3.0, 6.0, 7.0))


def test_a_ratio_above_one_is_better_whichever_way_the_unit_runs() -> None:
    assert row("a", Samples((30.0,), (10.0,)), FASTER).ratio == 3.0
    assert row("a", Samples((10.0,), (30.0,)), SHORTER).ratio == 3.0


def test_medians_are_compared_so_that_one_disturbed_round_does_not_decide() -> None:
    found = row("a", Samples((20.0, 21.0, 1.0), (10.0, 10.0, 500.0)), FASTER)
    assert (found.ours, found.peer, found.met) == (20.0, 10.0, True)


@given(taken, st.floats(1e-3, 1e3), st.sampled_from(["higher", "lower"]))
def test_met_follows_from_ratio_and_goal_alone(samples: Samples, goal: float, better: str) -> None:
    found = row("a", samples, Goal(goal=goal, unit="x", better=better, why=""))  # type: ignore[arg-type]
    assert found.met == (found.ratio >= found.goal)


@pytest.mark.parametrize(
    ("kind", "ours", "better", "met"),
    [
        ("difference", 11.0, "higher", True),
        ("difference", 10.9, "higher", False),
        ("difference", 9.0, "lower", True),
        ("difference", 11.0, "lower", False),
        ("within", 11.0, "higher", True),
        ("within", 9.0, "higher", True),
        ("within", 11.1, "higher", False),
        ("within", 8.9, "lower", False),
        ("limit", 1.0, "lower", True),
        ("limit", 1.1, "lower", False),
        ("limit", 0.9, "higher", False),
    ],
)
def test_a_goal_may_ask_for_a_difference_or_for_figures_that_are_alike(kind: Kind, ours: float, better: str, met: bool) -> None:
    goal = Goal(goal=1.0, unit="points", better=better, why="because", kind=kind)  # type: ignore[arg-type]
    assert row("a", Samples((ours,), (10.0,)), goal).met is met


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("ratio", "1.10 × (goal: at least 0.5 × the peer's points)"),
        ("difference", "+1.00 points (goal: at least 0.5 points better than the peer)"),
        ("within", "+1.00 points (goal: at most 0.5 points from the peer)"),
    ],
)
def test_a_verdict_is_told_in_the_measure_of_its_goal(kind: Kind, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    goal = Goal(goal=0.5, unit="points", better="higher", why="because", kind=kind)
    run("accuracy", lambda _: [row("a", Samples((11.0,), (10.0,)), goal)], [])
    assert said in capsys.readouterr().out


def test_any_number_of_sides_take_turns() -> None:
    calls: list[str] = []

    def side(name: str) -> Callable[[], float]:
        return lambda: calls.append(name) or float(len(calls))  # type: ignore[func-returns-value]

    taken = take_turns({name: side(name) for name in "abc"}, 1, warmup=1)
    assert "".join(calls) == "abc" + "cba"
    assert taken == {"a": (6.0,), "b": (5.0,), "c": (4.0,)}


def test_a_benchmark_gets_its_own_options_by_name() -> None:
    got: dict[str, object] = {}

    def measure(quick: bool, *, rows: str) -> list[Row]:
        got.update(quick=quick, rows=rows)
        return [make_row(True)]

    run("speed", measure, ["--rows", "some"], options=lambda parser: parser.add_argument("--rows") and None)
    assert got == {"quick": False, "rows": "some"}


def test_what_was_tried_and_the_charts_of_a_row_stand_in_its_table() -> None:
    shown = replace(make_row(True), appendix="| tried | found |", charts={"curve": "<svg/>"})
    result = json.loads(json.dumps(report("speed", [shown], quick=True)))
    text = as_markdown(result)
    assert "| tried | found |" in text
    assert f"![curve]({result['taken'][:10]}-speed-curve.svg)" in text


@pytest.mark.parametrize("samples", [Samples((), (1.0,)), Samples((1.0,), ()), Samples((1.0,), (0.0,)), Samples((-1.0,), (1.0,))])
def test_figures_of_which_no_ratio_can_be_taken_are_refused(samples: Samples) -> None:
    with pytest.raises(ValueError, match="figures above zero on both sides"):
        row("a", samples, FASTER)


def test_every_goal_belongs_to_a_benchmark_and_says_why() -> None:
    goals = tomllib.loads(GOALS.read_text(encoding="utf-8"))
    assert set(goals) == set(names())
    for benchmark, rows in goals.items():
        for name in rows:
            goal = goal_of(benchmark, name)
            assert goal.goal > 0
            assert goal.better in ("higher", "lower")
            assert goal.why


def test_a_row_without_a_goal_is_refused() -> None:
    with pytest.raises(KeyError, match="no goal"):
        goal_of("data_throughput", "beauty")


def make_row(met: bool) -> Row:
    samples = Samples((30.0, 31.0), (10.0 if met else 20.0,))
    sides = {"commands": {"ours": "python a", "peer": "python b"}, "threads": {"ours": 2, "peer": 2}, "peer_versions": {"datasets": "1"}}
    return row("speed", samples, FASTER, note="note", **sides)  # type: ignore[arg-type]


def test_a_result_file_holds_rows_samples_versions_and_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out.json"
    assert run("speed", lambda quick: [make_row(quick)], ["--quick", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    (found,) = result["rows"]
    assert {"name", "ours", "peer", "ratio", "goal", "met", "unit", "note"} <= set(found)
    assert found["samples"] == {"ours": [30.0, 31.0], "peer": [10.0]}
    assert set(found["commands"]) == set(found["threads"]) == {"ours", "peer"}
    assert result["hardware"]["cores"] >= 1
    assert "python" in result["versions"]
    assert "met" in capsys.readouterr().out


def test_a_goal_that_is_not_met_is_said_and_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("speed", lambda _: [make_row(False)], []) == NOT_MET
    assert "NOT MET" in capsys.readouterr().out


def test_a_result_reads_as_a_dated_table_that_names_the_hardware() -> None:
    result = json.loads(json.dumps(report("speed", [make_row(True)], quick=True)))
    text = as_markdown(result)
    assert text.startswith(f"# speed, {result['taken'][:10]} (quick)\n")
    assert result["hardware"]["cpu"] in text
    assert "| speed | 30.5 | 10 | 3.05 | +20.5 | at least 2 × the peer's rows/s | yes | rows/s |" in text


def test_a_side_that_fails_ends_the_benchmark_with_what_it_said() -> None:
    assert call(
        [sys.executable, "-c", "import os; print('noise'); print('{\"n\": ' + os.environ['OMP_NUM_THREADS'] + '}')"], threads=3
    ) == {"n": 3}
    with pytest.raises(RuntimeError, match="no luck"):
        call([sys.executable, "-c", "raise SystemExit('no luck')"], threads=1)


def test_the_list_names_every_benchmark_with_its_goals() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", "--list"], cwd=GOALS.parents[1], capture_output=True, text=True, check=True)
    assert {line for line in done.stdout.splitlines() if not line.startswith(" ")} == set(names())
    assert "at least 1.5 ×" in done.stdout
