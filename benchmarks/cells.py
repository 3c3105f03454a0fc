"""Finished parts of a long benchmark, kept in a folder, so that hours can be spread over sessions."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foundation.home import write_atomically

Answer = dict[str, Any]


class OutOfTime(Exception):
    """The session's minutes are over; what is finished is kept."""


class Cells:
    """Answers by what was asked: JSON files named by a hash of it."""

    def __init__(self, folder: Path, *, minutes: float | None = None) -> None:
        """``minutes``: no cell is begun after that."""
        self.folder = folder
        self._ends = float("inf") if minutes is None else time.monotonic() + 60 * minutes
        folder.mkdir(parents=True, exist_ok=True)

    def key(self, recipe: Mapping[str, Any]) -> str:
        """A name for what a recipe asks for."""
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]

    def get(self, recipe: Mapping[str, Any]) -> Answer | None:
        """The finished answer; None if there is none."""
        file = self.folder / f"{self.key(recipe)}.json"
        if not file.is_file():
            return None
        kept: Answer = json.loads(file.read_text(encoding="utf-8"))["answer"]
        return kept

    def find(self, recipe: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> Answer:
        """The finished answer, or what ``make`` gives, kept from then on.

        Raises:
            OutOfTime: It is not finished, and the session's minutes are over.
        """
        kept = self.get(recipe)
        if kept is not None:
            return kept
        if time.monotonic() >= self._ends:
            raise OutOfTime(f"{self.folder}: the minutes are over; run the same command again to go on")
        answer = dict(make())
        write_atomically(self.folder / f"{self.key(recipe)}.json", json.dumps({"recipe": recipe, "answer": answer}, indent=2) + "\n")
        return answer
