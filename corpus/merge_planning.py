"""What joining builds of one tokenizer would do: which fit together, and how their sources and documents are called then. Writes nothing.

Each build was deduplicated by itself; whether a text of one stands in another, or is held back there, is not looked for. A source keeps
its name, unless two builds have a source of that name: then it is called BUILD/SOURCE, by the build's folder. ``merging.py`` carries a plan
out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from corpus.labelled_config import LabelKind
from corpus.manifest import FORMAT_VERSION, BuildManifest, TokenizerRecord, fingerprint_of, read_manifest, verify
from corpus.planning import State, state_of
from corpus.shards import TOKENIZER_FOLDER
from foundation.errors import ConfigError, DataError

NOT_LOOKED_FOR = "duplicates between the builds were not looked for: a text may stand in several of them, and in different splits"


@dataclass(frozen=True)
class Part:
    """One of the builds that are joined."""

    folder: Path
    manifest: BuildManifest
    names: dict[str, str]
    """Its sources' names to those in the result."""
    first_document: int
    """Its document 0 has this number in the result."""


@dataclass(frozen=True)
class MergePlan:
    """What a merge would do. Nothing has been written."""

    out: str
    parts: tuple[Part, ...]
    labels: tuple[str, ...]
    label_kind: LabelKind
    has_pairs: bool
    bytes: int
    recipe_fingerprint: str
    state: State
    found: str

    @property
    def shards(self) -> int:
        """Shards to copy."""
        return sum(len(record.shards) for part in self.parts for record in part.manifest.packed.values())

    def as_json(self) -> dict[str, Any]:
        """The plan for ``--dry-run``."""
        return {
            "out": self.out,
            "state": self.state,
            "found": self.found,
            "builds": [
                {"folder": str(part.folder), "fingerprint": part.manifest.fingerprint, "sources": part.names} for part in self.parts
            ],
            "sequence_length": self.parts[0].manifest.sequence_length,
            "tokenizer": self.parts[0].manifest.tokenizer.model_dump(mode="json", exclude={"special_ids"}),
            "labels": self.labels,
            "label_kind": self.label_kind,
            "bytes": self.bytes,
            "recipe_fingerprint": self.recipe_fingerprint,
            "note": NOT_LOOKED_FOR,
        }


def plan(folders: Sequence[Path], out: Path) -> MergePlan:
    """Verify the builds, and check that they fit together.

    Raises:
        ConfigError: Fewer than two builds, or ``out`` is one of them.
        DataError: A build is missing, damaged, there twice, or does not fit the first one; ``out`` is something that is not a build.
    """
    if len(folders) < 2:
        raise ConfigError(f"data merge: {len(folders)} build given; give two or more")
    if nested := next((folder for folder in folders if _overlap(folder, out)), None):
        raise ConfigError(f"--out: {out} and the build {nested} lie in one another; choose another folder")
    found = [(folder, read_manifest(folder)) for folder in folders]
    for number, (folder, manifest) in enumerate(found):
        if twin := next((other for other, earlier in found[:number] if earlier.fingerprint == manifest.fingerprint), None):
            raise DataError(f"{folder}: holds the same as {twin}; a merge would repeat every row, so give it once")
        verify(folder, manifest)
        _require_fitting(*found[0], folder, manifest)
    labelled = [(folder, manifest) for folder, manifest in found if manifest.labelled]
    _require_same_labels(labelled)
    like = labelled[0][1] if labelled else found[0][1]
    parts, first = [], 0
    for (folder, manifest), names in zip(found, _names(found), strict=True):
        parts.append(Part(folder, manifest, names, first))
        first += sum(source.rows for source in manifest.sources.values())
    recipe_fingerprint = fingerprint_of({"format": FORMAT_VERSION, "merge": [[part.manifest.fingerprint, part.names] for part in parts]})
    size = sum((folder / name).stat().st_size for folder, manifest in found for name in manifest.files)
    described = (like.labels, like.label_kind, like.has_pairs)
    return MergePlan(str(out), tuple(parts), *described, size, recipe_fingerprint, *state_of(out, recipe_fingerprint))


def _overlap(folder: Path, out: Path) -> bool:
    one, other = Path(os.path.realpath(folder)), Path(os.path.realpath(out))
    return one == other or one in other.parents or other in one.parents


def _require_fitting(first: Path, wanted: BuildManifest, folder: Path, manifest: BuildManifest) -> None:
    """Refuse a build whose rows cannot stand beside those of the first one."""
    if manifest.sequence_length != wanted.sequence_length:
        raise DataError(
            f"{folder}: has rows of {manifest.sequence_length} tokens, {first} of {wanted.sequence_length}; "
            f"build it with sequence_length={wanted.sequence_length}"
        )
    if difference := _tokenizer_difference(wanted, manifest):
        remedy = f"build it with tokenizer={first / TOKENIZER_FOLDER} and the same kinds of cleaning.pii"
        raise DataError(f"{folder}: was tokenised otherwise than {first}: {difference}; {remedy}")
    if bucketed := next((place for place, one in ((first, wanted), (folder, manifest)) if one.packed["train"].buckets), None):
        raise DataError(
            f"{bucketed}: its rows lie by length, and a merge would mix them; build it without length_buckets, or from all sources"
        )
    weighted, other = bool(wanted.packed["train"].sources), bool(manifest.packed["train"].sources)
    if weighted != other:
        with_weights, without = (first, folder) if weighted else (folder, first)
        raise DataError(
            f"{without}: its sources have no weights, those of {with_weights} have some; build one of them again, "
            "with a weight for every source or for none"
        )


def _tokenizer_difference(one: BuildManifest, other: BuildManifest) -> str | None:
    """Of two tokenizers, what makes other ids; None when nothing does. A tokenizer that was taken from a build's folder has another hash
    than the one it came from where placeholders were added on the way; then its files decide."""
    for field in TokenizerRecord.model_fields:
        ours, theirs = getattr(one.tokenizer, field), getattr(other.tokenizer, field)
        if field != "sha256" and ours != theirs:
            return f"its {field} is {theirs}, not {ours}"
    if one.tokenizer.sha256 == other.tokenizer.sha256:
        return None
    for name in ("tokenizer.json", "vocab.txt", "added_tokens.json"):
        file = f"{TOKENIZER_FOLDER}/{name}"
        if one.files.get(file) != other.files.get(file):
            return f"its {file} is another"
    return None


def _require_same_labels(labelled: Sequence[tuple[Path, BuildManifest]]) -> None:
    """Refuse labelled rows that say something else than the first build's; builds without labelled rows have no say."""
    for folder, manifest in labelled[1:]:
        first, wanted = labelled[0]
        if manifest.label_kind != wanted.label_kind:
            raise DataError(f"{folder}: its label_kind is {manifest.label_kind}, that of {first} is {wanted.label_kind}; build both alike")
        if manifest.labels != wanted.labels:
            ours, theirs = set(wanted.labels), set(manifest.labels)
            only = [
                f"{place} alone has {', '.join(map(repr, names))}"
                for place, names in ((first, sorted(ours - theirs)), (folder, sorted(theirs - ours)))
                if names
            ]
            raise DataError(f"{folder}: its labels are not those of {first}: {'; '.join(only)}; give both the same classes")
    if labelled:
        _require_same_columns([folder for folder, _ in labelled])


def _names(found: Sequence[tuple[Path, BuildManifest]]) -> list[dict[str, str]]:
    """For each build, its sources' names to names that no other build has."""
    folders = Counter(folder.name for folder, _ in found)
    counts = Counter(name for _, manifest in found for name in manifest.sources)
    renamed = []
    for number, (folder, manifest) in enumerate(found, start=1):
        build = folder.name if folders[folder.name] == 1 else f"{folder.name}-{number}"
        renamed.append({name: name if counts[name] == 1 else f"{build}/{name}" for name in manifest.sources})
    twice = [name for name, count in Counter(name for names in renamed for name in names.values()).items() if count > 1]
    if twice:
        raise DataError(f"data merge: two builds have a source that would be called {twice[0]}; rename the folder of one of them")
    return renamed


def _require_same_columns(labelled: Sequence[Path]) -> None:
    """Refuse labelled rows of another form than the first build's."""
    first, *others = labelled
    wanted = labelled_schema(first)
    for folder in others:
        found = labelled_schema(folder)
        if found != wanted:
            ours, theirs = (", ".join(f"{field.name} ({field.type})" for field in schema) for schema in (wanted, found))
            raise DataError(f"{folder}: its labelled rows have the columns {theirs}; those of {first} have {ours}; build both alike")


def labelled_schema(folder: Path) -> pa.Schema:
    """The columns of a build's labelled rows."""
    with pa.memory_map(str(folder / "labelled" / "train.arrow")) as source:
        return pa.ipc.open_file(source).schema
