"""The other end of ``benchmarks/turns.py``: requests from standard input, answers to standard output; imports nothing of ours."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO


def conversation() -> tuple[Iterator[dict[str, Any]], Callable[[dict[str, Any]], None]]:
    """Requests as they come, and what answers one. From then on, whatever else is printed goes to standard error."""
    out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(found: dict[str, Any]) -> None:
        out.write(json.dumps(found) + "\n")
        out.flush()

    # Not ``for line in sys.stdin``: it reads ahead.
    return (json.loads(line) for line in iter(sys.stdin.readline, "")), answer
