"""Finds the recipes that come with raybert: ``configs/`` in a checkout, ``raybert/configs`` in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from foundation.errors import ConfigError

_HERE = Path(__file__).resolve().parent


def folder() -> Path:
    """The folder of the shipped recipes. A checkout's own comes first, because people edit that one."""
    checkout = _HERE.parent / "configs"
    return checkout if (_HERE.parent / "pyproject.toml").is_file() and checkout.is_dir() else _HERE / "configs"


def names() -> list[str]:
    """File names of the shipped recipes, sorted."""
    return sorted(path.name for path in folder().glob("*.yaml"))


def shipped(name: str) -> Path:
    """The path of a shipped recipe, ``finetune_reviews_cpu`` or ``finetune_reviews_cpu.yaml``.

    Raises:
        ConfigError: No such recipe is shipped; the message lists those that are.
    """
    path = folder() / f"{name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        raise ConfigError(f"{name}: no such shipped recipe; shipped: {', '.join(names()) or f'none (nothing in {folder()})'}")
    return path
