"""One tiny classifier for all serving tests of a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.bundle import Bundle
from serving.classifier import Classifier
from tests.support.tiny import make_classifier_bundle

LABELS = ("negative", "neutral", "positive")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_classifier_bundle(tmp_path_factory.mktemp("bundles") / "reviews", LABELS)


@pytest.fixture(scope="session")
def classifier(bundle: Bundle) -> Classifier:
    return Classifier.open(str(bundle.path), threads=1)


@pytest.fixture
def altered_bundle(tmp_path: Path) -> Bundle:
    """A bundle of which one byte was changed after it was sealed."""
    made = make_classifier_bundle(tmp_path / "altered", LABELS)
    config = made.path / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("gelu", "relu"), encoding="utf-8")
    return made
