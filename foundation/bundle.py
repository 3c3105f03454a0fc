"""The bundle: the one thing that training hands to serving.

A bundle is a Hugging Face directory that plain ``AutoModel….from_pretrained`` loads, plus ``raybert.json``: what the model answers,
where it came from, how good it was found to be, and the SHA-256 of every other file. ``open_bundle`` refuses a directory with a missing,
altered or surplus file. Nothing in it is a pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from foundation.errors import BundleError
from foundation.home import now_utc, write_atomically
from foundation.profile import Profile

MANIFEST = "raybert.json"
FORMAT_VERSION = 2
"""1: single_label and masked_lm only; without ``takes_pairs``, and golden requests without ``text_pair``."""
# Files that load code when they are opened; a bundle is data.
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")

TaskKind = Literal["single_label", "multi_label", "regression", "masked_lm"]
PROBLEM_TYPES: dict[TaskKind, str] = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""``problem_type`` of the Hugging Face configuration, for each kind that classifies; an exporter always sets it."""
LOWER_IS_BETTER = frozenset({"loss", "validation_loss", "mae", "rmse", "baseline_mae", "baseline_rmse"})
"""Metrics of which a smaller figure is the better one."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Gate(_Part):
    """One quality requirement, and what was found."""

    metric: str
    wanted: float
    """The least figure that passes; the greatest, where lower is better."""
    found: float
    passed: bool

    @classmethod
    def check(cls, metric: str, wanted: float, found: float) -> Gate:
        """Compare in the metric's own direction; NaN fails."""
        passed = found <= wanted if metric in LOWER_IS_BETTER else found >= wanted
        return cls(metric=metric, wanted=wanted, found=found, passed=passed)


class GoldenRequest(_Part):
    """A text, or a pair, and the scores that the exporting process computed for it; serving must repeat them."""

    text: str
    text_pair: str | None = None
    scores: dict[str, float]
    """Label to probability; of a regression its one label to the value."""

    @property
    def input(self) -> str | tuple[str, str]:
        """What a classifier reads."""
        return self.text if self.text_pair is None else (self.text, self.text_pair)


class Manifest(_Part):
    """What ``raybert.json`` holds."""

    format_version: int = FORMAT_VERSION
    task: TaskKind
    labels: tuple[str, ...] = ()
    """Label names, in the order of the logits; a regression has one."""
    max_length: int
    """Longest input in tokens, special tokens counted."""
    takes_pairs: bool = False
    """Whether it was trained on pairs of texts."""
    thresholds: dict[str, float] | None = None
    """Multi-label: the probability from which each label applies, 0.5 for a label that is not named; None for the other tasks, and where
    all are 0.5."""
    run_id: str
    created: str
    """UTC, ISO 8601."""
    data_fingerprint: str
    """SHA-256 over the training data's content, for lineage."""
    git_revision: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    golden: tuple[GoldenRequest, ...] = ()
    profile: Profile | None = None
    """Lengths, vocabulary and label mix of the training rows; None in bundles of earlier versions, and where there are no labelled rows."""
    software: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str]
    """Relative path to SHA-256 of every file but this one."""

    @model_validator(mode="after")
    def _thresholds_belong_to_labels(self) -> Self:
        unknown = sorted(set(self.thresholds or ()) - set(self.labels))
        if unknown:
            raise ValueError(f"thresholds: {unknown[0]!r} is not a label; labels are {', '.join(self.labels) or 'none'}")
        if self.thresholds and self.task != "multi_label":
            raise ValueError(f"thresholds: belong to multi_label, found with {self.task}")
        return self

    @property
    def gates_passed(self) -> bool:
        """Whether at least one gate was checked and none failed."""
        return bool(self.gates) and all(gate.passed for gate in self.gates)


class Bundle(_Part):
    """An opened bundle: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """SHA-256 of ``raybert.json``; because that holds every other file's hash, it names the whole bundle."""
        return sha256_of(self.path / MANIFEST)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, as hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def software_versions() -> dict[str, str]:
    """Versions of the packages that decide a model's numbers, as installed here."""
    found = {}
    for package in ("raybert", "torch", "transformers", "deepspeed", "ray", "safetensors", "tokenizers"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def seal(
    folder: Path,
    *,
    task: TaskKind,
    max_length: int,
    run_id: str,
    data_fingerprint: str,
    labels: tuple[str, ...] = (),
    takes_pairs: bool = False,
    thresholds: Mapping[str, float] | None = None,
    git_revision: str | None = None,
    metrics: Mapping[str, float] | None = None,
    gates: tuple[Gate, ...] = (),
    golden: tuple[GoldenRequest, ...] = (),
    profile: Profile | None = None,
) -> Bundle:
    """Write ``raybert.json`` over the files that ``folder`` holds, last, and return the bundle.

    Raises:
        BundleError: The folder holds a pickle.
    """
    files = _files_in(folder)
    for name in files:
        if name.endswith(_PICKLES):
            raise BundleError(f"{folder}: {name} is a pickle; a bundle holds safetensors only")
    manifest = Manifest(
        task=task,
        labels=labels,
        max_length=max_length,
        takes_pairs=takes_pairs,
        thresholds=dict(thresholds) if thresholds else None,
        run_id=run_id,
        created=now_utc(),
        data_fingerprint=data_fingerprint,
        git_revision=git_revision,
        metrics=dict(metrics or {}),
        gates=gates,
        golden=golden,
        profile=profile,
        software=software_versions(),
        files={name: sha256_of(folder / name) for name in files},
    )
    write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return Bundle(path=folder, manifest=manifest)


def reseal(bundle: Bundle, **changes: object) -> Bundle:
    """Write the manifest again with some fields replaced, for example ``metrics`` and ``gates`` after an evaluation."""
    manifest = bundle.manifest.model_copy(update={"format_version": FORMAT_VERSION, **changes})
    write_atomically(bundle.path / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return Bundle(path=bundle.path, manifest=manifest)


def is_bundle(folder: Path) -> bool:
    """Whether ``folder`` has a manifest; says nothing of its files."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read ``raybert.json`` without hashing the files that it lists.

    Raises:
        BundleError: No manifest, not JSON of this shape, or of a newer format version.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BundleError(f"{folder}: no {MANIFEST}; this is not a bundle (raybert finetune writes one)") from None
    # The version first: a newer form may have fields that this one does not know.
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        version = found.get("format_version") if isinstance(found, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise BundleError(f"{path}: format_version is {version}, this raybert reads up to {FORMAT_VERSION}; upgrade raybert")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "content"
        raise BundleError(f"{path}: {key}: {first['msg']}; the manifest is damaged, export the bundle again") from None


def open_bundle(folder: Path, *, digest: str | None = None) -> Bundle:
    """Open and verify a bundle: every listed file is there, has its hash, and no other file is there.

    Args:
        folder: The bundle's directory.
        digest: The SHA-256 of ``raybert.json`` that the registry recorded, if there is one.

    Raises:
        BundleError: Names the first file that is wrong.
    """
    manifest = read_manifest(folder)
    if digest is not None and sha256_of(folder / MANIFEST) != digest:
        raise BundleError(f"{folder / MANIFEST}: altered since it was registered; register the bundle anew or restore the file")
    present = set(_files_in(folder))
    for name, wanted in manifest.files.items():
        if name not in present:
            raise BundleError(f"{folder / name}: missing from the bundle; restore it or export the bundle again")
        if sha256_of(folder / name) != wanted:
            raise BundleError(f"{folder / name}: altered (its SHA-256 is not the manifest's); export the bundle again")
    surplus = sorted(present - set(manifest.files))
    if surplus:
        raise BundleError(f"{folder / surplus[0]}: not part of the bundle; remove it")
    return Bundle(path=folder, manifest=manifest)


def _files_in(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(f".{MANIFEST}")
    )
