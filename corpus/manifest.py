"""``manifest.json``: what a ``data build`` folder holds, from what it was made, and the SHA-256 of every file in it.

It is written last, so a folder that has one is complete. ``verify`` refuses a missing, altered or surplus file by name. Knows nothing of
how shards are read (``shards.py``) or written (``build.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from corpus.labelled_config import LabelKind
from foundation.bundle import sha256_of
from foundation.errors import DataError, first_line

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageCount(_Part):
    """Rows into a stage, rows out of it, and why the others went."""

    stage: str
    rows_in: int
    rows_out: int
    dropped: dict[str, int] = {}
    """Reason to rows."""
    changed: int = 0
    """Rows whose text the stage altered."""
    counts: dict[str, int] = {}
    """What else the stage did, by kind."""
    examples: dict[str, tuple[str, ...]] = {}
    """Reason to the beginnings of the first few texts that went for it."""


class SourceRecord(_Part):
    """What one source held when it was read."""

    files: dict[str, str]
    """File name to SHA-256."""
    rows: int


class TokenizerRecord(_Part):
    """The tokenizer whose ids the shards hold; its files are in ``tokenizer/``."""

    sha256: str
    """Over the files that decide the ids."""
    vocabulary: int
    cls_id: int
    sep_id: int
    pad_id: int
    mask_id: int
    special_ids: tuple[int, ...]
    """Ids that are never masked."""
    placeholders: dict[str, int] = {}
    """Words that stand for personal data, with their ids."""


class TokenisedRecord(_Part):
    """What the tokenizer made of the kept texts of one source, training and validation; special tokens are not counted."""

    words: int
    """Runs of letters, digits and marks, and single characters of scripts without spaces (``words.py``); punctuation is no word."""
    tokens: int
    """Token ids, those of punctuation among them."""
    unknown: int
    """Tokens that stand for what the vocabulary has no pieces for."""
    fertility: float
    """tokens / words; 0 without words."""
    unknown_share: float
    """unknown / tokens; 0 without tokens."""

    @classmethod
    def of(cls, words: int, tokens: int, unknown: int) -> TokenisedRecord:
        """The record of these counts."""
        fertility, share = round(tokens / words, 4) if words else 0.0, round(unknown / tokens, 6) if tokens else 0.0
        return cls(words=words, tokens=tokens, unknown=unknown, fertility=fertility, unknown_share=share)


class LengthBucket(_Part):
    """Rows of like length."""

    longest: int
    """No row of it has more tokens."""
    rows: int


class PackedRecord(_Part):
    """One packed split."""

    rows: int
    documents: int
    """Documents kept; a long one may stand in several rows."""
    tokens: int
    """Tokens in the rows, special ones counted."""
    fill: float
    """Share of the rows' places that hold a token; a row has ``sequence_length`` places, or those of its bucket."""
    shards: tuple[str, ...]
    """Files, in row order."""
    sources: dict[str, int] = {}
    """Source to rows, one behind the other, where sources are weighted; else empty, and rows may mix sources."""
    buckets: tuple[LengthBucket, ...] = ()
    """Buckets whose rows lie one behind the other, short ones first; empty where rows of all lengths are mixed."""


class FindingRecord(_Part):
    """One finding about labelled rows (``checks.Finding``)."""

    kind: str
    severity: str
    message: str
    count: int
    """Rows concerned."""
    rows: tuple[str, ...]
    """The first of them."""


class BuildManifest(_Part):
    """The whole record."""

    format_version: int = FORMAT_VERSION
    created: str
    """UTC, ISO 8601."""
    recipe: dict[str, Any]
    """The resolved recipe."""
    recipe_fingerprint: str
    """SHA-256 over the recipe (without ``out``), the sources' content, the tokenizer: equal ones give equal shards."""
    fingerprint: str
    """SHA-256 over every file's hash: names the content."""
    sources: dict[str, SourceRecord]
    stages: tuple[StageCount, ...]
    tokenizer: TokenizerRecord
    tokenised: dict[str, TokenisedRecord] = {}
    """Source to what the tokenizer made of its texts; empty in builds of earlier versions."""
    sequence_length: int
    labels: tuple[str, ...]
    """Class names in index order; empty without labelled sources, and for numbers."""
    labelled: dict[str, int]
    """Split to rows; empty without labelled sources."""
    label_kind: LabelKind = "single"
    """What each labelled row holds."""
    has_pairs: bool = False
    """Whether labelled rows have a second text."""
    findings: tuple[FindingRecord, ...] = ()
    """What the checks of labelled rows warned of."""
    packed: dict[str, PackedRecord]
    """Split to what was packed of it."""
    software: dict[str, str]
    files: dict[str, str]
    """Relative path to SHA-256, of every file but this one."""


def is_build(folder: Path) -> bool:
    """Whether ``folder`` holds a manifest; says nothing of its other files."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> BuildManifest:
    """Read ``manifest.json`` without hashing what it lists.

    Raises:
        DataError: It is missing, damaged, or of a newer format.
    """
    file = folder / MANIFEST
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        if tree["format_version"] > FORMAT_VERSION:
            raise DataError(
                f"{file}: format version {tree['format_version']}; this raybert reads up to {FORMAT_VERSION}, so use a newer one"
            )
        return BuildManifest.model_validate(tree)
    except FileNotFoundError:
        raise DataError(f"{folder}: no {MANIFEST}; expected a folder that `raybert data build` made") from None
    except (ValueError, TypeError, KeyError, ValidationError) as error:
        raise DataError(f"{file}: damaged ({first_line(error)}); build the data again with `raybert data build --replace`") from None


def verify(folder: Path, manifest: BuildManifest, names: Iterable[str] | None = None) -> None:
    """Hash files against the manifest.

    Args:
        folder: The build folder.
        manifest: Its manifest.
        names: Files to check; None checks all and refuses surplus ones as well.

    Raises:
        DataError: A file is missing, altered or surplus; names the first.
    """
    for name in manifest.files if names is None else names:
        file = folder / name
        if not file.is_file():
            raise DataError(f"{file}: missing; {MANIFEST} lists it. Build the data again with `raybert data build --replace`")
        found = sha256_of(file)
        if found != manifest.files[name]:
            raise DataError(
                f"{file}: altered: SHA-256 is {found[:12]}…, {MANIFEST} says {manifest.files[name][:12]}…. "
                "Build the data again with `raybert data build --replace`"
            )
    if names is None:
        surplus = sorted(set(files_in(folder)) - set(manifest.files))
        if surplus:
            raise DataError(f"{folder / surplus[0]}: not listed in {MANIFEST}; a build folder holds nothing else, so move it away")


def files_in(folder: Path) -> list[str]:
    """Relative paths of all files of a build but its manifest, sorted."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != MANIFEST)


def fingerprint_of(value: Any) -> str:
    """SHA-256 over a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
