"""The code that a job brings along: raybert's packages and the recipes it names, staged in a folder that Ray uploads as ``working_dir``.

The same layout from a checkout and from site-packages, so that the upload has the same hash and Ray keeps one copy. Holds no tests, no
caches, nothing that is pip-installed. Knows nothing of Ray; ``jobs.py`` submits what is staged here.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foundation.errors import ConfigError, RunError

PACKAGES = ("raybert", "foundation", "corpus", "encoder", "cluster", "training", "tuning", "serving")
RECIPES = "recipes"
"""Folder of the package in which the recipes named by ``-c`` lie."""
_LEFT_OUT = {"__pycache__", "tests"}
_DATA = {".yaml", ".yml", ".json", ".typed"}


@dataclass(frozen=True)
class CodePackage:
    """What a job is shipped: ``files`` maps a path inside the package to the file it is copied from."""

    arguments: tuple[str, ...]
    """The verb and its arguments, with recipe paths rewritten to those inside the package."""
    files: dict[str, Path]

    @property
    def size_bytes(self) -> int:
        """Of all files, uncompressed."""
        return sum(path.stat().st_size for path in self.files.values())

    def stage(self, folder: Path) -> None:
        """Copy the files into ``folder``."""
        for name, source in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def code_package(arguments: Sequence[str]) -> CodePackage:
    """Plan the package for ``raybert ARGUMENTS``.

    Raises:
        ConfigError: A recipe named by ``-c`` or ``--config`` is missing, or the option has no value.
    """
    rewritten, recipes = take_recipes(arguments)
    files = {name: path for package in PACKAGES for name, path in _files_of(package, package_folder(package)).items()}
    return CodePackage(tuple(rewritten), {**files, **recipes})


def package_folder(name: str) -> Path:
    """Where a package of ours is imported from, found without importing it."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise RunError(f"{name}: not importable here; install raybert again: pip install --force-reinstall raybert")
    return Path(next(iter(found.submodule_search_locations)))


def take_recipes(arguments: Sequence[str]) -> tuple[list[str], dict[str, Path]]:
    """Find each ``-c FILE`` and point it into the package.

    Returns:
        The arguments as the job gets them, and path inside the package → file here. Two recipes of one name stay apart.
    """
    rewritten: list[str] = []
    recipes: dict[str, Path] = {}
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            return [*rewritten, argument, *waiting], recipes
        if argument in ("-c", "--config"):
            if not waiting:
                raise ConfigError(f"{argument}: expected a recipe behind it, for example {argument} finetune.yaml")
            rewritten += [argument, _shipped(waiting.pop(0), recipes)]
        elif argument.startswith("--config="):
            rewritten.append(f"--config={_shipped(argument.removeprefix('--config='), recipes)}")
        elif argument.startswith("-c") and len(argument) > 2:
            rewritten += ["-c", _shipped(argument[2:], recipes)]
        else:
            rewritten.append(argument)
    return rewritten, recipes


def _shipped(given: str, recipes: dict[str, Path]) -> str:
    path = Path(given).expanduser().absolute()
    if not path.is_file():
        raise ConfigError(f"{given}: no such recipe ({path}); nothing was submitted")
    inside = f"{RECIPES}/{path.name}"
    count = 1
    while inside in recipes and recipes[inside] != path:
        count += 1
        inside = f"{RECIPES}/{count}/{path.name}"
    recipes[inside] = path
    return inside


def _files_of(package: str, folder: Path) -> dict[str, Path]:
    found = {f"{package}/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*")) if _belongs(path, folder)}
    beside = folder.parent / "configs"
    if package == "raybert" and (folder.parent / "pyproject.toml").is_file() and beside.is_dir():
        # In a checkout the shipped recipes lie at the top; inside the package they are found as in a wheel.
        found |= {
            f"raybert/configs/{path.relative_to(beside).as_posix()}": path for path in sorted(beside.rglob("*")) if _belongs(path, beside)
        }
    return found


def _belongs(path: Path, folder: Path) -> bool:
    inside = path.relative_to(folder).parts
    hidden = any(part in _LEFT_OUT or part.startswith(".") for part in inside)
    return path.is_file() and not hidden and (path.suffix == ".py" or path.suffix in _DATA)
