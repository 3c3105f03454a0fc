"""START HERE. What every benchmark shares: alternating rounds, one form of row, versions and hardware, how results are written.

A benchmark module has ``measure(quick: bool) -> list[Row]`` and ends with ``run(__name__, measure)``. The verdict ``met`` is computed from
``ratio`` and ``goal`` and from nothing else; a benchmark cannot set it. Knows nothing of what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).resolve().parent
GOALS = HERE / "goals.toml"
NOT_MET = 3
VERSIONS = ("raybert", "torch", "ray", "deepspeed", "transformers", "tokenizers", "mlflow", "pyarrow", "numpy")


@dataclass(frozen=True)
class Goal:
    """What ``goals.toml`` asks of one row."""

    goal: float
    unit: str
    better: Literal["higher", "lower"]
    why: str


@dataclass(frozen=True)
class Samples:
    """Raw figures of both sides, in the order in which they were taken."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """One finding. ``ours`` and ``peer`` are medians in ``unit``."""

    name: str
    ours: float
    peer: float
    ratio: float
    """How many times better we are; above 1 is better whichever way the unit runs."""
    goal: float
    met: bool
    unit: str
    note: str
    samples: Samples
    commands: dict[str, str]
    """Command line of each side."""
    threads: dict[str, int]
    """Threads given to each side."""
    peer_versions: dict[str, str]


def goal_of(benchmark: str, name: str, file: Path = GOALS) -> Goal:
    """Read one goal.

    Raises:
        KeyError: ``goals.toml`` has no such row: a benchmark without a goal proves nothing.
    """
    goals = tomllib.loads(file.read_text(encoding="utf-8"))
    if name not in goals.get(benchmark, {}):
        raise KeyError(f"{file}: no goal [{benchmark}.{name}]; every row needs one")
    return Goal(**goals[benchmark][name])


def row(
    name: str,
    samples: Samples,
    goal: Goal,
    *,
    note: str = "",
    commands: Mapping[str, str] | None = None,
    threads: Mapping[str, int] | None = None,
    peer_versions: Mapping[str, str] | None = None,
) -> Row:
    """Judge samples by a goal. Pure.

    Raises:
        ValueError: No samples on a side, or figures that are not above zero, of which no ratio can be taken.
    """
    if not samples.ours or not samples.peer or min(*samples.ours, *samples.peer) <= 0:
        raise ValueError(f"{name}: needs figures above zero on both sides, found {samples}")
    ours, peer = statistics.median(samples.ours), statistics.median(samples.peer)
    ratio = ours / peer if goal.better == "higher" else peer / ours
    return Row(
        name=name,
        ours=ours,
        peer=peer,
        ratio=ratio,
        goal=goal.goal,
        met=ratio >= goal.goal,
        unit=goal.unit,
        note=note,
        samples=samples,
        commands=dict(commands or {}),
        threads=dict(threads or {}),
        peer_versions=dict(peer_versions or {}),
    )


def alternate(ours: Callable[[], float], peer: Callable[[], float], rounds: int, *, warmup: int = 1) -> Samples:
    """Take figures from both sides in turn, each side first in every other round, so that a drift of the machine meets both alike.

    Args:
        ours: Measures us once.
        peer: Measures the peer once.
        rounds: Figures kept from each side.
        warmup: Rounds before them that are not kept.
    """
    taken: dict[str, list[float]] = {"ours": [], "peer": []}
    sides = [("ours", ours), ("peer", peer)]
    for number in range(warmup + rounds):
        for name, measure in sides if number % 2 == 0 else reversed(sides):
            figure = measure()
            if number >= warmup:
                taken[name].append(figure)
    return Samples(tuple(taken["ours"]), tuple(taken["peer"]))


def call(command: Sequence[str], *, threads: int, timeout_s: float = 1800) -> dict[str, Any]:
    """Run one side's program, which prints one JSON object as its last line; numeric libraries get ``threads`` threads.

    Raises:
        RuntimeError: It failed; the message ends with what it said.
    """
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    environment = {**os.environ, **limits, "PYTHONPATH": str(HERE.parent), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*command], env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def versions(names: Sequence[str] = VERSIONS) -> dict[str, str]:
    """Versions installed in this environment, of those that are."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """What the figures were taken on, and its load over 1, 5 and 15 minutes: other work on the machine disturbs them."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": _memory_gib(),
        "system": platform.platform(),
        "load": os.getloadavg(),
    }


def report(benchmark: str, rows: Sequence[Row], *, quick: bool) -> dict[str, Any]:
    """Everything that a result file holds."""
    return {
        "benchmark": benchmark,
        "quick": quick,
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]),
        "hardware": hardware(),
        "versions": versions(),
        "rows": [asdict(item) for item in rows],
    }


def as_markdown(result: Mapping[str, Any]) -> str:
    """A result for people: one dated table that names the hardware."""
    machine = result["hardware"]
    lines = [
        f"# {result['benchmark']}, {result['taken'][:10]}{' (quick)' if result['quick'] else ''}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, load {machine['load'][0]:.1f} at the end.",
        f"`{result['command']}`",
        "",
        "| row | ours | peer | ratio | goal | met | unit |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {item['name']} | {item['ours']:,.4g} | {item['peer']:,.4g} | {item['ratio']:.2f} | {item['goal']:g} "
            f"| {'yes' if item['met'] else '**no**'} | {item['unit']} |"
            for item in result["rows"]
        ),
        "",
    ]
    for item in result["rows"]:
        lines += [f"**{item['name']}**: {item['note']}", ""]
        lines += [f"- {side}: `{command}` ({item['threads'].get(side, '?')} threads)" for side, command in item["commands"].items()]
        lines += [f"- samples, {side}: {', '.join(f'{figure:,.4g}' for figure in item['samples'][side])}" for side in ("ours", "peer")]
        lines += [f"- peer: {', '.join(f'{name} {version}' for name, version in item['peer_versions'].items())}", ""]
    lines += [f"Versions: {', '.join(f'{name} {version}' for name, version in result['versions'].items())}.", ""]
    return "\n".join(lines)


def run(benchmark: str, measure: Callable[[bool], list[Row]], arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns 0 when every goal is met, else 3."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}")
    parser.add_argument("--quick", action="store_true", help="the same goals at a smaller size, at most five minutes")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write rows, raw samples, versions and command lines")
    parser.add_argument("--record", action="store_true", help="add a dated table to benchmarks/results/")
    given = parser.parse_args(arguments)
    rows = measure(given.quick)
    result = report(benchmark, rows, quick=given.quick)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if given.record:
        (HERE / "results" / f"{result['taken'][:10]}-{benchmark}.md").write_text(as_markdown(result), encoding="utf-8")
    for item in rows:
        verdict = "met" if item.met else "NOT MET"
        print(f"{item.name}: {item.ours:,.4g} against {item.peer:,.4g} {item.unit}, {item.ratio:.2f} × (goal {item.goal:g}): {verdict}")
    return 0 if all(item.met for item in rows) else NOT_MET


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
