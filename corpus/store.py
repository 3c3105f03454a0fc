"""Finished pieces of a build, kept by what they were made from: a build that was cut goes on where it was, and a changed source file
redoes only what depends on it.

A piece is an Arrow table under a key, the fingerprint of everything that decides its content. It appears whole or not at all. Safe to
delete at any time. Knows nothing of what pieces hold.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa


class PieceStore:
    """Arrow tables and small JSON notes in a folder."""

    def __init__(self, folder: Path) -> None:
        """Nothing is created before something is put in."""
        self.folder = folder

    def has(self, key: str) -> bool:
        """Whether a table is there."""
        return self._file(key, "arrow").is_file()

    def put(self, key: str, table: pa.Table) -> None:
        """Keep a table."""

        def write(part: Path) -> None:
            with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table.combine_chunks())

        self._appear(self._file(key, "arrow"), write)

    def get(self, key: str) -> pa.Table:
        """A table, mapped into memory rather than read; what was not touched takes no memory."""
        with pa.memory_map(str(self._file(key, "arrow"))) as source:
            return pa.ipc.open_file(source).read_all()

    def use(self, keys: Iterable[str]) -> None:
        """Mark tables as used now, so that ``prune`` keeps them."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._file(key, "arrow"))

    def put_note(self, key: str, note: Any) -> None:
        """Keep a JSON value."""

        def write(part: Path) -> None:
            part.write_text(json.dumps(note), encoding="utf-8")

        self._appear(self._file(key, "json"), write)

    def note(self, key: str) -> Any | None:
        """A JSON value, or None when there is none."""
        try:
            return json.loads(self._file(key, "json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def _file(self, key: str, suffix: str) -> Path:
        return self.folder / key[:2] / f"{key}.{suffix}"

    def _appear(self, file: Path, write: Callable[[Path], None]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(2)}")
        try:
            write(part)
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)


def prune(folder: Path, *, older_than_s: float, dry_run: bool = False) -> tuple[int, int]:
    """Remove what was not used for ``older_than_s`` seconds; returns the number of files and their bytes."""
    limit = time.time() - older_than_s
    files = size = 0
    for file in sorted(folder.glob("??/*")):
        found = file.stat()
        if found.st_mtime <= limit:
            files, size = files + 1, size + found.st_size
            if not dry_run:
                file.unlink()
    return files, size


@contextmanager
def piece_store(folder: Path | None) -> Iterator[PieceStore]:
    """The store in ``folder``, or one that is gone behind the block."""
    if folder is not None:
        yield PieceStore(folder)
        return
    temporary = Path(tempfile.mkdtemp(prefix="raybert-pieces-"))
    try:
        yield PieceStore(temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
