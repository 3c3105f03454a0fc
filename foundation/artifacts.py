"""A bundle's files where MLflow keeps them: on a disk, in an object store, behind a server."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from foundation.bundle import MANIFEST, Bundle
from foundation.errors import RegistryError, first_line

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository


def folder_of(source: str) -> Path | None:
    """The folder of a source that lies on this machine."""
    local = Path(source.removeprefix("file://"))
    return local if local.is_absolute() and local.is_dir() else None


def stored_files(source: str, tracking_uri: str) -> dict[str, int]:
    """Path to bytes of all files at ``source``."""
    store, found, folders = _store(source, tracking_uri), {}, [""]
    while folders:
        for item in store.list_artifacts(folders.pop() or None):
            if item.is_dir:
                folders.append(item.path)
            else:
                found[item.path] = int(item.file_size or 0)
    return found


def check_uploaded(bundle: Bundle, source: str, tracking_uri: str) -> None:
    """Refuse a copy of a bundle that is not whole; sizes are compared, hashes when it is opened.

    Raises:
        RegistryError: Names the first file that is missing or cut.
    """
    found = stored_files(source, tracking_uri)
    for name in (*bundle.manifest.files, MANIFEST):
        wanted = (bundle.path / name).stat().st_size
        if found.get(name) != wanted:
            there = f"{found[name]:,} bytes" if name in found else "nothing"
            raise RegistryError(f"{source}/{name}: found {there}, expected {wanted:,} bytes; nothing was registered, upload it again")


def download(source: str, target: Path, tracking_uri: str) -> None:
    """Bring a source's files to the folder ``target``, whole or not at all."""
    from mlflow.artifacts import download_artifacts

    part = target.with_name(f".{target.name}.{os.getpid()}")
    part.mkdir(parents=True, exist_ok=True)
    try:
        fetched = Path(download_artifacts(artifact_uri=source, dst_path=str(part), tracking_uri=tracking_uri))
        with contextlib.suppress(OSError):  # another process was quicker
            os.rename(fetched, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove(source: str, tracking_uri: str) -> str | None:
    """Remove a source's files. Returns why that could not be done, if so: some stores never remove."""
    try:
        _store(source, tracking_uri).delete_artifacts()
    except Exception as error:  # whatever a store, its driver or the network raises
        return first_line(error)
    return None


def _store(source: str, tracking_uri: str) -> ArtifactRepository:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(source, tracking_uri=tracking_uri)
