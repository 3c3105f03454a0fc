"""START HERE. What every benchmark shares: alternating rounds, sides in processes of their own, and how results are written.

A benchmark module has ``measure(quick: bool) -> list[Row]`` and ends with ``run(NAME, measure)``. The verdict ``met`` is computed from both
medians and the goal and from nothing else (``rows.py``); a benchmark cannot set it. Knows nothing of what is measured. Next: ``rows.py``
(goals and rows), ``reporting.py`` (files), ``turns.py`` (sides that live as long as the benchmark).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reporting import as_markdown, asked, chart_file, found, report
from benchmarks.rows import Row, Samples

HERE = Path(__file__).resolve().parent
NOT_MET = 3


def alternate(ours: Callable[[], float], peer: Callable[[], float], rounds: int, *, warmup: int = 1) -> Samples:
    """Take figures from both sides in turn, each side first in every other round, so that a drift of the machine meets both alike.

    Args:
        ours: Measures us once.
        peer: Measures the peer once.
        rounds: Figures kept from each side.
        warmup: Rounds before them that are not kept.
    """
    taken = take_turns({"ours": ours, "peer": peer}, rounds, warmup=warmup)
    return Samples(taken["ours"], taken["peer"])


def take_turns(sides: Mapping[str, Callable[[], float]], rounds: int, *, warmup: int = 1) -> dict[str, tuple[float, ...]]:
    """``alternate`` for any number of sides, whose order is turned round after each round; figures by side."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warmup + rounds):
        for name in sides if number % 2 == 0 else reversed(list(sides)):
            figure = sides[name]()
            if number >= warmup:
                taken[name].append(figure)
    return {name: tuple(figures) for name, figures in taken.items()}


def call(command: Sequence[str], *, threads: int, timeout_s: float = 1800) -> dict[str, Any]:
    """Run one side's program, which prints one JSON object as its last line; numeric libraries get ``threads`` threads.

    Raises:
        RuntimeError: It failed; the message ends with what it said.
    """
    done = subprocess.run([*command], env=environment(threads), capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def environment(threads: int) -> dict[str, str]:
    """Environment variables of a side's program: so many threads for numeric libraries, our modules, no hub."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    return {**os.environ, **limits, "PYTHONPATH": str(HERE.parent), "HF_HUB_OFFLINE": "1"}


def run(
    benchmark: str,
    measure: Callable[..., list[Row]],
    arguments: Sequence[str] | None = None,
    *,
    options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> int:
    """Measure, print, write. Returns 0 when every goal is met, else 3.

    Args:
        benchmark: Its name.
        measure: Takes ``quick``, and by name what ``options`` adds.
        arguments: Of the command line; None reads this process's.
        options: Adds the benchmark's own options to the parser.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}")
    parser.add_argument("--quick", action="store_true", help="the same goals at a smaller size, at most five minutes")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write rows, raw samples, versions and command lines")
    parser.add_argument("--record", action="store_true", help="add a dated table to benchmarks/results/")
    if options:
        options(parser)
    given = parser.parse_args(arguments)
    own = {name: value for name, value in vars(given).items() if name not in ("quick", "json", "record")}
    rows = measure(given.quick, **own)
    result = report(benchmark, rows, quick=given.quick)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if given.record:
        results = HERE / "results"
        (results / f"{result['taken'][:10]}-{benchmark}.md").write_text(as_markdown(result), encoding="utf-8")
        for name, chart in (pair for item in rows for pair in item.charts.items()):
            (results / chart_file(result, name)).write_text(chart, encoding="utf-8")
    for item in rows:
        verdict = "met" if item.met else "NOT MET"
        wanted = asked(item.goal, item.kind, item.unit)
        print(f"{item.name}: {item.ours:,.4g} against {item.peer:,.4g} {item.unit}, {found(item)} (goal: {wanted}): {verdict}")
    return 0 if all(item.met for item in rows) else NOT_MET
