"""Where raybert keeps things on this machine, and how runs are named. One folder, moved by ``RAYBERT_HOME``."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foundation.errors import ConfigError

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class Home:
    """The folders of one raybert home. Properties name paths; nothing is created until somebody writes."""

    root: Path

    @property
    def runs(self) -> Path:
        """One folder per run, named by run id."""
        return self.root / "runs"

    @property
    def cache(self) -> Path:
        """Downloads, checked by hash; safe to delete. ``RAYBERT_CACHE`` moves it, so that several homes can share one."""
        shared = os.environ.get("RAYBERT_CACHE")
        return Path(shared).expanduser().absolute() if shared else self.root / "cache"

    @property
    def clusters(self) -> Path:
        """One state file per local cluster that is up."""
        return self.root / "clusters"

    @property
    def tracking_uri(self) -> str:
        """MLflow's store: ``MLFLOW_TRACKING_URI``, else SQLite in this home."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """Where MLflow puts artifacts when the store is the SQLite file of this home."""
        return self.root / "artifacts"


def home() -> Home:
    """The home in force: ``RAYBERT_HOME``, else ``~/.raybert``."""
    return Home(Path(os.environ.get("RAYBERT_HOME") or Path.home() / ".raybert").expanduser().absolute())


def new_run_id(verb: str) -> str:
    """A name for a run, never used before: verb, UTC time, six random hex digits.

    Ray Train silently resumes a run whose name is used again, so a name must never come back by accident.
    """
    return f"{verb}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def now_utc() -> str:
    """The time, UTC, ISO 8601, to the second: as records hold it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def checked_run_id(name: str) -> str:
    """A run's name that a user gave, if it can be one and no run of this home has it.

    Raises:
        ConfigError: It cannot be a folder's name everywhere, or is in use.
    """
    if not _RUN_NAME.fullmatch(name):
        raise ConfigError(
            f"--name: {name!r}: a run's name has up to 80 letters, digits, dots, dashes and underscores, a letter or digit first"
        )
    if (home().runs / name).exists():
        raise ConfigError(f"--name: {name}: in use by a run in {home().runs}; give another name, or go on with that run: --resume {name}")
    return name


def git_revision(folder: Path | None = None) -> str | None:
    """The commit checked out at ``folder`` (default: the current one) with ``+dirty`` when files differ; None outside git."""
    try:
        commit = _git(["rev-parse", "HEAD"], folder)
        dirty = _git(["status", "--porcelain", "--untracked-files=no"], folder)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+dirty" if dirty else "")


def _git(arguments: list[str], folder: Path | None) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def has_lock(handle: int, kind: int) -> bool:
    """Whether a lock (``fcntl.LOCK_EX`` or ``LOCK_SH``) was had, without waiting. A file system that has no locks gives it to everybody."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(2)}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
