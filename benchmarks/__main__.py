"""``python -m benchmarks --list``: the benchmarks that exist, and their goals."""

from __future__ import annotations

import argparse
import sys
import tomllib

from benchmarks.harness import HERE
from benchmarks.reporting import asked
from benchmarks.rows import GOALS


def names() -> list[str]:
    """Modules of this folder that measure something."""
    return sorted(path.stem for path in HERE.glob("*.py") if "\ndef measure(" in path.read_text(encoding="utf-8"))


def main() -> int:
    """Print the list; one name a line with ``--names``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Run one with: python -m benchmarks.NAME [--quick] --json OUT"
    )
    parser.add_argument("--list", action="store_true", required=True, help="name every benchmark and its goals")
    parser.add_argument("--names", action="store_true", help="names alone")
    given = parser.parse_args()
    goals = tomllib.loads(GOALS.read_text(encoding="utf-8"))
    for name in names():
        print(name)
        if not given.names:
            for row, goal in goals.get(name, {}).items():
                print(f"  {row}: {asked(goal['goal'], goal.get('kind', 'ratio'), goal['unit'])} ({goal['better']} is better)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
