"""Sides that live as long as a benchmark: a program in a process of its own, asked in turn over a pipe, idle while the other one works.

A program reads one JSON object a line and answers each with one; it ends when its input does. What it prints besides goes to its errors.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from benchmarks.harness import environment

_LAST_WORDS = 4000
_PATIENCE_S = 60
NEVER = 10**6
"""Steps of a run that ends when nobody asks for more."""


class Side:
    """One program; use it as a context."""

    def __init__(self, command: Sequence[str], *, threads: int) -> None:
        """Start it; it says that it is ready when it is first asked."""
        self.command = [*command]
        self.ended: int | None = None
        """Its exit code, once it has ended."""
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  closed with the program
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment(threads) | {"TOKENIZERS_PARALLELISM": "false"},
        )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One answer.

        Raises:
            RuntimeError: The program ended instead; the message ends with what it said.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"{' '.join(self.command)}: exit code {code}\n{self._errors.read()[-_LAST_WORDS:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Side:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=_PATIENCE_S if kind is None else 0)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self.ended = self._process.returncode
        self._process.stdout.close()
        self._errors.close()


def steps_in(command: list[str], seconds: float, threads: int) -> int:
    """Steps that a side does in ``seconds``, from a twentieth of the time after its first steps."""
    with Side(command, threads=threads) as side:
        side.ask({"do": "steps", "count": 2})
        found = side.ask({"do": "steps", "count": NEVER, "seconds": seconds / 20})
    return max(1, int(seconds * found["steps"] / found["seconds"]))
