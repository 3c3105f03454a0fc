"""How two models differ: what they were found to be worth on the same rows, what they answer, and what they came from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foundation.bundle import Bundle
from foundation.evidence import Evaluation

_OWN = ("run_id", "created", "golden", "profile", "files", "metrics", "gates", "software", "labels")


@dataclass(frozen=True)
class Side:
    """One model."""

    ref: str
    bundle: Bundle
    evaluations: tuple[Evaluation, ...] = ()
    recipe: Mapping[str, str] = field(default_factory=dict)
    """Dotted key to value; empty where it is not known."""

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum((self.bundle.path / name).stat().st_size for name in self.bundle.manifest.files)


@dataclass(frozen=True)
class Differences:
    """From one model to another; figures come in pairs, the first one's first."""

    refs: tuple[str, str]
    same_rows: tuple[dict[str, Any], ...]
    """For all rows that both were measured on: ``data``, ``split``, ``rows`` and ``metrics``, each a pair."""
    training_metrics: dict[str, tuple[float | None, float | None]]
    """As training found them, each on its own held-out rows."""
    labels_added: tuple[str, ...]
    labels_removed: tuple[str, ...]
    bytes: tuple[int, int]
    manifest: dict[str, tuple[Any, Any]]
    """Other fields that differ."""
    recipe: dict[str, tuple[str | None, str | None]]
    """Keys whose values differ."""
    software: dict[str, tuple[str | None, str | None]]
    same_files: bool
    """Whether all files are the same, so that both answer alike."""


def differences(one: Side, other: Side) -> Differences:
    """Compare two models."""
    first, second = one.bundle.manifest, other.bundle.manifest
    theirs = {evaluation.on: evaluation for evaluation in other.evaluations}
    fields = {
        name: (getattr(first, name), getattr(second, name))
        for name in type(first).model_fields
        if name not in _OWN and getattr(first, name) != getattr(second, name)
    }
    return Differences(
        refs=(one.ref, other.ref),
        same_rows=tuple(
            {
                "data": item.data,
                "split": item.split,
                "rows": item.rows,
                "metrics": {
                    name: (value, theirs[item.on].metrics[name]) for name, value in item.metrics.items() if name in theirs[item.on].metrics
                },
            }
            for item in one.evaluations
            if item.on in theirs
        ),
        training_metrics=_pairs(first.metrics, second.metrics),
        labels_added=tuple(label for label in second.labels if label not in first.labels),
        labels_removed=tuple(label for label in first.labels if label not in second.labels),
        bytes=(one.bytes, other.bytes),
        manifest=fields,
        recipe=_unlike(one.recipe, other.recipe) if one.recipe and other.recipe else {},
        software=_unlike(first.software, second.software),
        same_files=first.files == second.files,
    )


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (one.get(name), other.get(name)) for name in sorted(one.keys() | other.keys())}


def _unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: pair for name, pair in _pairs(one, other).items() if pair[0] != pair[1]}
