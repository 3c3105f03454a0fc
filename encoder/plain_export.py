"""A bundle copied to a folder that plain transformers loads, kept only if it answers its golden requests as recorded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encoder.classifier import SequenceClassifier
from foundation.bundle import Bundle
from foundation.errors import BundleError
from foundation.folders import new_folder

PARITY_TOLERANCE = 1e-4
"""Largest difference that is accepted; of values beyond 1 as a share of them."""


@dataclass(frozen=True)
class Parity:
    """How far two computations of the same rows are apart."""

    rows: int
    longest: int
    """Tokens of the longest row compared."""
    largest_difference: float
    """As ``difference`` counts it."""


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference of two arrays, of values beyond 1 as a share of them; NaN if there is one."""
    return float((np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted))).max())


def export_safetensors(bundle: Bundle, target: Path) -> Parity:
    """Copy a bundle to ``target``, which must not exist, whole or not at all.

    Raises:
        BundleError: The copy's scores are not the recorded ones.
        InputError, RunError: No room on the disk.
    """
    with new_folder(target, sum(file.stat().st_size for file in bundle.path.rglob("*"))) as part:
        shutil.copytree(bundle.path, part, dirs_exist_ok=True)
        found = _golden_parity(Bundle(path=part, manifest=bundle.manifest))
        if not found.largest_difference <= PARITY_TOLERANCE:
            raise BundleError(
                f"{target}: not exported: golden requests score otherwise than recorded, by {found.largest_difference:.2e}; this machine "
                "or its software computes otherwise than the one that exported the bundle"
            )
    return found


def _golden_parity(bundle: Bundle) -> Parity:
    golden = bundle.manifest.golden
    if not golden:
        return Parity(0, 0, 0.0)
    classifier = SequenceClassifier.load(bundle.path)
    inputs = [request.input for request in golden]
    recorded_NC = np.array([[request.scores.get(label, np.nan) for label in classifier.labels] for request in golden])
    longest = max(map(len, classifier.tokenize(inputs)))
    return Parity(len(golden), longest, difference(classifier.score(inputs), recorded_NC))
