"""Small data, a small tokenizer, and a package cache that all tests share."""

from __future__ import annotations

import getpass
import os
import string
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corpus.config import DataConfig


@pytest.fixture
def package_cache(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where fetched packages stay between tests and runs; archives in it are checked by hash at every use."""
    cache = Path(os.environ.get("RAYBERT_CACHE") or Path(tempfile.gettempdir()) / f"raybert-test-cache-{getpass.getuser()}")
    monkeypatch.setenv("RAYBERT_CACHE", str(cache))
    return cache


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """A WordPiece tokenizer of letters and digits, as a bare vocab.txt."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    letters = [*string.ascii_lowercase, *string.digits, *".,!?"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """A labelled CSV of forty rows, two of them equal, one of them with a line break."""
    rows = [f'"text number {i}{chr(10) if i == 3 else ""} is here",{"good" if i % 2 else "bad"}' for i in range(39)]
    rows.append(rows[-1])
    file = tmp_path / "reviews.csv"
    file.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def recipe_for(reviews: Path, tokenizer_folder: Path, tmp_path: Path) -> Callable[..., DataConfig]:
    """A recipe that builds ``reviews`` into ``tmp_path/built``; keywords replace its keys."""

    def make(**values: Any) -> DataConfig:
        tree = {
            "sources": {"reviews": {"path": str(reviews), "label_column": "label"}},
            "tokenizer": str(tokenizer_folder),
            "out": str(tmp_path / "built"),
            "sequence_length": 64,
        }
        return DataConfig.model_validate({**tree, **values})

    return make
