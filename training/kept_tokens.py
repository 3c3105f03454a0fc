"""Labelled rows' token ids, kept in a folder while a run or study lasts, so that a restart or a further trial does not tokenise again.

A file is named by all that the ids follow from, written whole or not at all, and read only if its content has the hash that it was written
with; whatever is wrong with it, the rows are tokenised.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foundation.errors import first_line
from foundation.progress import say

_FORM = "1"

Rows = list[npt.NDArray[Any]]
"""An array of token ids (int32), or of token types (int8), for each row."""
Found = tuple[Rows, Rows | None]
"""Ids, and token types where there are pairs."""


@dataclass(frozen=True)
class Keeper:
    """One folder's files."""

    folder: Path
    writes: bool = True
    """One of several workers is enough."""

    def find(self, make: Callable[[], Found], *follows_from: str) -> Found:
        """Ids and token types that follow from this (data, split, length, tokenizer): those that are kept, or else made and kept."""
        file = self._file(*follows_from)
        if (kept := self._read(file)) is not None:
            return kept
        made = make()
        self._write(file, *made)
        return made

    def _file(self, *follows_from: str) -> Path:
        versions = [metadata.version(package) for package in ("tokenizers", "transformers")]
        key = hashlib.sha256("\n".join([_FORM, *versions, *follows_from]).encode()).hexdigest()
        return self.folder / f"{key[:24]}.safetensors"

    def _read(self, file: Path) -> Found | None:
        """None when they are not there, or not as they were written."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="numpy") as opened:
                found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  a handle, not a mapping
                digest = (opened.metadata() or {}).get("sha256")
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            say(f"warning: {file}: cannot be read, the rows are tokenised again: {first_line(error)}")
            return None
        if digest != _digest(found):
            say(f"warning: {file}: is not as it was written, the rows are tokenised again")
            return None
        ends = found["ends"]
        return _rows(found["ids"], ends), _rows(found["types"], ends) if "types" in found else None

    def _write(self, file: Path, ids: Rows, types: Rows | None) -> None:
        """A disk that does not take them is told of, and the run goes on."""
        from safetensors.numpy import save_file

        if not self.writes or not ids:
            return
        flat = {"ids": np.concatenate(ids), "ends": np.cumsum([len(row) for row in ids], dtype=np.int64)}
        if types is not None:
            flat["types"] = np.concatenate(types)
        part = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(flat, part, {"sha256": _digest(flat)})
            os.replace(part, file)
        except OSError as error:
            say(f"warning: {file}: token ids cannot be kept: {first_line(error)}")
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def tokenizer_digest(tokenizer: Any) -> str:
    """What a tokenizer does, as a hash: of its own serialised form where it has one, else of vocabulary and settings."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    told = backend.to_str() if backend is not None else repr((sorted(tokenizer.get_vocab().items()), tokenizer.init_kwargs))
    return hashlib.sha256(told.encode()).hexdigest()


def _rows(flat: npt.NDArray[Any], ends: npt.NDArray[np.int64]) -> Rows:
    return np.split(flat, ends[:-1])


def _digest(arrays: dict[str, npt.NDArray[Any]]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        found.update(np.ascontiguousarray(arrays[name]).data)
    return found.hexdigest()
