"""Results for files and for people: hardware, versions, the dated table. Pure but for what it asks of the machine. Next: ``harness.py``."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, assert_never

from benchmarks.rows import Kind, Row

VERSIONS = ("raybert", "torch", "ray", "deepspeed", "transformers", "tokenizers", "mlflow", "pyarrow", "numpy")


def asked(goal: float, kind: Kind, unit: str) -> str:
    """A goal for people: ``at least 3 × the peer's tokens/s``."""
    match kind:
        case "ratio":
            return f"at least {goal:g} × the peer's {unit}"
        case "difference":
            return f"at least {goal:g} {unit} better than the peer"
        case "within":
            return f"at most {goal:g} {unit} from the peer"
        case "limit":
            return f"{goal:g} {unit}, whatever the peer's"
        case _:
            assert_never(kind)


def found(item: Row) -> str:
    """What a row found, in the measure of its goal: ``3.05 ×`` or ``+1.2 points``."""
    return f"{item.ratio:.2f} ×" if item.kind in ("ratio", "limit") else f"{item.difference:+.2f} {item.unit}"


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
        "| row | ours | peer | ratio | difference | goal | met | unit |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {item['name']} | {item['ours']:,.4g} | {item['peer']:,.4g} | {item['ratio']:.2f} | {item['difference']:+,.4g} "
            f"| {asked(item['goal'], item['kind'], item['unit'])} | {'yes' if item['met'] else '**no**'} | {item['unit']} |"
            for item in result["rows"]
        ),
        "",
    ]
    for item in result["rows"]:
        lines += [f"**{item['name']}**: {item['note']}", ""]
        lines += [f"- {side}: `{command}` ({item['threads'].get(side, '?')} threads)" for side, command in item["commands"].items()]
        lines += [f"- samples, {side}: {', '.join(f'{figure:,.4g}' for figure in item['samples'][side])}" for side in ("ours", "peer")]
        lines += [f"- peer: {', '.join(f'{name} {version}' for name, version in item['peer_versions'].items())}", ""]
        lines += [f"![{name}]({chart_file(result, name)})\n" for name in item["charts"]]
        lines += [item["appendix"], ""] if item["appendix"] else []
    lines += [f"Versions: {', '.join(f'{name} {version}' for name, version in result['versions'].items())}.", ""]
    return "\n".join(lines)


def chart_file(result: Mapping[str, Any], name: str) -> str:
    """The name of a chart's file, beside the table."""
    return f"{result['taken'][:10]}-{result['benchmark']}-{name}.svg"


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
