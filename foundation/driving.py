"""A folder that one process at a time drives: a training run's, a study's. A JSON file in it says by whom, and how it stands.

The driver holds ``driver.lock`` as long as it lives, so a driver that went without a word is known by it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.errors import ConfigError, DataError
from foundation.home import has_lock, write_json

LOCK_FILE = "driver.lock"
RESUMABLE = ("failed", "interrupted", "lost")
"""States that ``--resume`` goes on from."""
# Whoever looks whether a folder is driven holds its lock for a moment.
_LOCK_S = 2.0


@contextlib.contextmanager
def driven(folder: Path) -> Iterator[None]:
    """Drive within the block: no second process can. The lock goes with the process, however it ends.

    Raises:
        ConfigError: Another process drives it.
    """
    with (folder / LOCK_FILE).open("a") as lock:
        deadline = time.monotonic() + _LOCK_S
        while not has_lock(lock.fileno(), fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise ConfigError(f"{folder.name}: another process is driving it; wait for it, or stop it first")
            time.sleep(0.05)
        yield


@contextlib.contextmanager
def driven_folder(folder: Path, file: str, *, is_new: bool) -> Iterator[None]:
    """Drive a folder within the block: one that is made for it, or one that is there. A new one goes again, and its name is free, when the
    block fails before it has ``file``.

    Raises:
        ConfigError: A new one is there already, or another process drives it.
    """
    if is_new:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise ConfigError(f"{folder.name}: came into use since this was planned; give another name") from None
    try:
        with driven(folder):
            yield
    except BaseException:
        if is_new and not (folder / file).exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise


@dataclass(frozen=True)
class Driven:
    """A driven folder as its files tell it."""

    folder: Path
    about: dict[str, Any]
    """Its JSON file."""
    result: dict[str, Any] | None
    """What came of it, once it has finished."""

    @property
    def plan(self) -> dict[str, Any]:
        """As ``--dry-run`` printed it."""
        found: dict[str, Any] = self.about["plan"]
        return found

    @property
    def state(self) -> str:
        """``running``, ``finished``, ``failed``, ``interrupted``; ``lost`` when the process that drove it is gone without a word."""
        state: str = self.about["state"]
        return "lost" if state == "running" and not _is_driven(self.folder, self.about) else state


def begin(file: Path, **about: Any) -> None:
    """Write down in ``file`` that this process has begun something."""
    write_json(file, _driver() | {"started": time.time()} | about)


def go_on(file: Path, **about: Any) -> None:
    """Write down that this process goes on with it."""
    write_json(file, _read(file) | _driver() | about)


def note(file: Path, **about: Any) -> None:
    """Write something more down about it; only its driver may."""
    write_json(file, _read(file) | about)


def end(file: Path, state: str) -> None:
    """Write down how it ended: ``finished``, ``failed`` or ``interrupted``."""
    write_json(file, _read(file) | {"state": state, "ended": time.time()})


def read(folder: Path, file: str, result: str, what: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What a folder's file says, and what its result says if it has one.

    Raises:
        DataError: They cannot be read.
    """
    try:
        found = folder / result
        return _read(folder / file), _read(found) if found.is_file() else None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: not a {what}'s folder: {error}") from None


def folders(root: Path, file: str) -> list[Path]:
    """Those directly in ``root`` that have the file."""
    return sorted(found.parent for found in root.glob(f"*/{file}"))


def named(ref: str, root: Path, file: str, *, what: str, plural: str, hint: str) -> Path:
    """The folder that a name, an unambiguous part of it or a path means.

    Raises:
        DataError: None, or several; ``hint`` says what to do when there is none.
    """
    given = Path(ref).expanduser()
    if (given / file).is_file():
        return given.absolute()
    known = [folder for folder in folders(root, file) if ref in folder.name]
    exact = [folder for folder in known if folder.name == ref]
    if len(found := exact or known) == 1:
        return found[0]
    if found:
        raise DataError(f"{ref}: names {len(found)} {plural}: {', '.join(folder.name for folder in found[:5])}; give more of the id")
    raise DataError(f"{ref}: no such {what} in {root}; {hint}")


def _driver() -> dict[str, Any]:
    return {"state": "running", "ended": None, "pid": os.getpid(), "host": socket.gethostname()}


def _is_driven(folder: Path, about: Mapping[str, Any]) -> bool:
    with contextlib.suppress(OSError), (folder / LOCK_FILE).open() as lock:
        return not has_lock(lock.fileno(), fcntl.LOCK_SH)
    # Of a version that had no lock.
    return about["host"] != socket.gethostname() or Path(f"/proc/{about['pid']}").exists()


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
