"""Files of a source, wherever they lie: this machine, or any file system that PyArrow opens by URI (``s3://``, ``gs://``, ``hdfs://``, ``file://``).

Finds, hashes and opens them; gzip and zstd are undone on the way. Knows nothing of what is inside: that is ``sources.py``.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs

from corpus.config import SourceFormat
from foundation.errors import DataError, first_line

SUFFIXES: dict[str, SourceFormat] = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_KNOWN = f"{', '.join(SUFFIXES)} files ({', '.join(_COMPRESSIONS)} of them too)"
_BLOCK = 1 << 22
_MAGIC = "*?["


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    path: str
    """As the file system knows it; shown in messages."""
    name: str
    """Below the folder that was given, else the file's own name: the same on every machine."""
    uri: str | None = None
    """Set when it is not read through this machine's own file system."""

    @property
    def format(self) -> SourceFormat | None:
        """By suffix, a compression's suffix not counted; None when it says nothing."""
        return SUFFIXES.get(PurePosixPath(self._plain_name).suffix.lower())

    @property
    def is_tab_separated(self) -> bool:
        """Whether the name says so."""
        return self._plain_name.lower().endswith(".tsv")

    @property
    def compression(self) -> str | None:
        """What has to be undone when it is read."""
        return _COMPRESSIONS.get(PurePosixPath(self.path).suffix.lower())

    @property
    def size(self) -> int:
        """Bytes as stored."""
        return int(self._system().get_file_info(self.path).size or 0)

    @property
    def sha256(self) -> str:
        """Of the bytes as stored."""
        digest = hashlib.sha256()
        with self._system().open_input_stream(self.path, compression=None) as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def stream(self) -> Any:
        """Its content from the beginning, decompressed."""
        return self._system().open_input_stream(self.path, compression=self.compression)

    def random_access(self) -> Any:
        """Its content for formats that are read from the end.

        Raises:
            DataError: It is compressed as a whole.
        """
        if self.compression is not None:
            raise DataError(f"{self.path}: a Parquet or Arrow file compresses its own columns; remove the outer {self.compression}")
        return self._system().open_input_file(self.path)

    def blocks(self) -> Iterator[bytes]:
        """Its content, piece by piece.

        Raises:
            DataError: The compressed data is cut short or damaged.
        """
        try:
            with self.stream() as stream:
                while block := stream.read(_BLOCK):
                    yield block
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{self.path}: cannot be read to its end: {first_line(error)}") from None

    @property
    def _plain_name(self) -> str:
        suffix = PurePosixPath(self.path).suffix
        return self.path.removesuffix(suffix) if suffix.lower() in _COMPRESSIONS else self.path

    def _system(self) -> Any:
        return pa.fs.LocalFileSystem() if self.uri is None else _system_of(self.uri)[0]


def files_of(path: str, file_format: SourceFormat = "auto") -> list[SourceFile]:
    """The files that ``path`` names, sorted: a file, a folder, a glob, or a saved Hugging Face data set; on this machine or at a URI.

    Raises:
        DataError: Nothing there, nothing that can be read, or no access.
    """
    found = _at_uri(path, file_format) if "://" in path else _here(path, file_format)
    if not found:
        raise DataError(f"{path}: no such file; expected a file, a folder of {_KNOWN}, or a glob that matches some")
    return found


def format_of(file: SourceFile, file_format: SourceFormat) -> SourceFormat:
    """The format to read ``file`` in.

    Raises:
        DataError: ``auto``, and the suffix says nothing.
    """
    if file_format != "auto":
        return file_format
    if file.format is None:
        suffix = PurePosixPath(file.path).suffix
        raise DataError(f"{file.path}: cannot tell its format from {suffix or 'no suffix'!r}; expected {', '.join(SUFFIXES)}")
    return file.format


def _here(path: str, file_format: SourceFormat) -> list[SourceFile]:
    place = Path(path)
    if place.is_file():
        return [SourceFile(str(place), place.name)]
    if place.is_dir():
        saved = _saved_dataset(place)
        inside = saved or [file for file in sorted(place.rglob("*")) if file.is_file()]
        return _readable(path, [SourceFile(str(file), file.relative_to(place).as_posix()) for file in inside], file_format)
    matches = sorted(Path(match) for match in glob.glob(path, recursive=True))
    return [SourceFile(str(match), match.name) for match in matches if match.is_file()]


def _at_uri(path: str, file_format: SourceFormat) -> list[SourceFile]:
    base, pattern = _split_glob(path)
    system, place = _system_of(base)
    try:
        info = system.get_file_info(place)
        if info.type == pa.fs.FileType.File:
            return [SourceFile(place, PurePosixPath(place).name, base)]
        inside = system.get_file_info(pa.fs.FileSelector(place, recursive=True, allow_not_found=True))
    except OSError as error:
        raise DataError(f"{path}: cannot be listed: {first_line(error)}") from None
    paths = sorted(item.path for item in inside if item.type == pa.fs.FileType.File)
    files = [SourceFile(found, PurePosixPath(found).relative_to(place).as_posix(), base) for found in paths]
    if pattern is not None:
        return [file for file in files if fnmatch.fnmatchcase(file.name, pattern)]
    return _readable(path, files, file_format) if files else []


def _split_glob(path: str) -> tuple[str, str | None]:
    """A URI's folder and the pattern below it; no pattern when nothing in it is one."""
    parts = path.split("/")
    first = next((number for number, part in enumerate(parts) if any(sign in part for sign in _MAGIC)), None)
    return (path, None) if first is None else ("/".join(parts[:first]), "/".join(parts[first:]).replace("**/", "*"))


def _system_of(uri: str) -> tuple[Any, str]:
    try:
        system, place = pa.fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(f"{uri}: no file system for it: {first_line(error)}; known are file://, s3://, gs:// and hdfs://") from None
    return system, place.rstrip("/")


def _readable(path: str, files: Sequence[SourceFile], file_format: SourceFormat) -> list[SourceFile]:
    found = [file for file in files if file_format != "auto" or file.format is not None]
    if not found:
        raise DataError(f"{path}: a folder without {_KNOWN}; expected at least one")
    return found


def _saved_dataset(place: Path) -> list[Path]:
    """The data files of a folder that Hugging Face ``datasets`` saved, in its order; empty when it is none."""
    if (place / "dataset_dict.json").is_file():
        splits = json.loads((place / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        raise DataError(f"{place}: holds the splits {', '.join(splits)}; name one of them, for example {place / splits[0]}")
    state = place / "state.json"
    if not state.is_file():
        return []
    tree = json.loads(state.read_text(encoding="utf-8"))
    return [place / item["filename"] for item in tree.get("_data_files", ())]
