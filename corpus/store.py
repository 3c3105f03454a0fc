"""Finished pieces of a build, kept by what they were made from: a build that was cut goes on where it was, and a changed source file
redoes only what depends on it.

A piece is an Arrow table under a key, the fingerprint of everything that decides its content. It appears whole or not at all. Whoever
uses the store holds a shared lock on its folder, so that ``pruning.py`` never takes a piece from under a build. Knows nothing of what
pieces hold.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

BUILDS = "builds"
"""Folder of the store that says on what each build rests."""
_SUFFIXES = ("arrow", "json")


class PieceStore:
    """Arrow tables and small JSON notes in a folder."""

    def __init__(self, folder: Path) -> None:
        """Nothing is created before something is put in."""
        self.folder = folder
        self._held: int | None = None
        self._hold()

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
        """Mark tables and notes as used now."""
        for key in keys:
            for suffix in _SUFFIXES:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self._file(key, suffix))

    def put_note(self, key: str, note: Any) -> None:
        """Keep a JSON value."""

        self._appear(self._file(key, "json"), lambda part: _write_json(part, note))

    def note(self, key: str) -> Any | None:
        """A JSON value, or None when there is none."""
        try:
            return json.loads(self._file(key, "json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def record_build(self, out: Path, fingerprint: str, keys: Iterable[str]) -> None:
        """Remember on which tables and notes the build at ``out``, of this content, rests; forgets the one that was there before."""
        use = {"out": str(out), "fingerprint": fingerprint, "keys": sorted(set(keys))}
        name = hashlib.sha256(str(out).encode()).hexdigest()
        self._appear(self.folder / BUILDS / f"{name}.json", lambda part: _write_json(part, use))

    def close(self) -> None:
        """Let go of the lock."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _hold(self) -> None:
        """Share the folder with other builds and keep ``prune`` out; the lock goes with the process, however it ends."""
        if self._held is None and self.folder.is_dir():
            self._held = os.open(self.folder, os.O_RDONLY)
            # A file system without locks does without: there, prune only when nothing is built.
            with contextlib.suppress(OSError):
                fcntl.flock(self._held, fcntl.LOCK_SH)

    def _file(self, key: str, suffix: str) -> Path:
        return self.folder / key[:2] / f"{key}.{suffix}"

    def _appear(self, file: Path, write: Callable[[Path], None]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._hold()
        part = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(2)}")
        try:
            write(part)
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def piece_store(folder: Path | None) -> Iterator[PieceStore]:
    """The store in ``folder``, or one that is gone behind the block."""
    if folder is not None:
        with contextlib.closing(PieceStore(folder)) as store:
            yield store
        return
    temporary = Path(tempfile.mkdtemp(prefix="raybert-pieces-"))
    try:
        with contextlib.closing(PieceStore(temporary)) as store:
            yield store
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")
