"""A folder that appears whole or not at all: written beside its place, renamed into it, removed when anything goes wrong.

Knows nothing of what is written. Ctrl-C, a full disk or an error leave the place as it was; what a killed process left behind is removed
by the next build of the same folder.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundation.errors import InputError, RunError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def new_folder(target: Path, needed_bytes: int = 0) -> Iterator[Path]:
    """Yield a folder to write; when the block ends well it becomes ``target``, replacing what was there.

    Args:
        target: The final place.
        needed_bytes: About how much will be written; checked against the free space first. 0: not known.

    Raises:
        InputError: The disk has less room than needed; nothing was begun.
        RunError: The disk filled up on the way; nothing is left behind.
    """
    require_room(target, needed_bytes)
    _remove_left_behind(target)
    part = target.with_name(f".{target.name}.building-{socket.gethostname()}-{os.getpid()}")
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        part.mkdir(parents=True)
        yield part
        _swap(part, target)
    except OSError as error:
        if error.errno in _FULL or "No space left" in str(error):
            raise RunError(_no_room(target, needed_bytes, _free(target))) from None
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def require_room(target: Path, needed_bytes: int) -> None:
    """Refuse early what cannot be written.

    Raises:
        InputError: The disk has less room than needed.
    """
    if _free(target) < needed_bytes:
        raise InputError(_no_room(target, needed_bytes, _free(target)))


def _free(target: Path) -> int:
    return shutil.disk_usage(next(parent for parent in target.parents if parent.exists())).free


def _swap(part: Path, target: Path) -> None:
    old = part.with_name(f"{part.name}-old")
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(part, target)
    except BaseException:
        if old.exists():
            os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_left_behind(target: Path) -> None:
    prefix = f".{target.name}.building-{socket.gethostname()}-"
    if not target.parent.is_dir():
        return
    for folder in target.parent.iterdir():
        number = folder.name.removeprefix(prefix).removesuffix("-old")
        if not folder.name.startswith(prefix) or not number.isdecimal() or _is_alive(int(number)):
            continue
        if folder.name.endswith("-old") and not target.exists():
            os.rename(folder, target)  # killed between the two renames of _swap
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _no_room(target: Path, needed: int, free: int) -> str:
    wanted = f"needs about {needed / 1e6:,.0f} MB, " if needed else ""
    return (
        f"{target}: no room on the disk: {wanted}{free / 1e6:,.0f} MB are free; nothing was written. Free some space, or give a folder on "
        "another disk"
    )
