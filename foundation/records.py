"""The metrics record of a run: one JSON object a line, appended as the run goes, read by progress bars, MLflow and tests.

Rank 0 writes it beside the checkpoints; whoever watches tails it. A line cut off by a crash is skipped, never fatal.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Recorder:
    """Appends rows to one JSON-lines file. A row carries ``event``, ``time`` (Unix seconds) and whatever the event holds."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        if _is_cut(path):  # else the first new row would be lost with the rest of the old one
            self._file.write("\n")

    def write(self, event: str, **values: Any) -> None:
        """Append one row and hand it to the operating system at once."""
        self._file.write(json.dumps({"event": event, "time": time.time(), **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; further writes fail."""
        self._file.close()


class Tail:
    """Reads rows that were appended since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each complete new row; nothing when the file is not there yet."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        return  # still being written
                    self._offset += len(line)
                    try:
                        yield json.loads(line)
                    except ValueError:
                        continue  # cut off by a crash, then appended to by the next attempt
        except FileNotFoundError:
            return


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a record."""
    return list(Tail(path).rows())


def _is_cut(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return size > 0 and file.read(1) != b"\n"
