"""Token ids that are kept are those that tokenising gives, or are not taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpus.config import LabelledDataConfig
from foundation.config import parse
from tests.support.tiny import make_encoder, write_reviews
from training.assembly import Assembly, assemble
from training.config import FinetuneConfig
from training.kept_tokens import Keeper


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_reviews(tmp_path / "reviews.csv")


def assembled(encoder: Path, data: Path, keeper: Keeper | None, **more: Any) -> Assembly:
    tree = {"encoder": str(encoder), "data": LabelledDataConfig(train=str(data)).model_dump(mode="json"), "max_length": 16}
    return assemble(parse(FinetuneConfig, tree | more, where="recipe.yaml"), str(encoder), keeper=keeper)


def ids_of(assembly: Assembly) -> list[list[int]]:
    return [row.tolist() for objective in (assembly.objective, assembly.validation) for row in objective._token_ids]


def never(*_: object) -> None:
    raise AssertionError("tokenised although the ids are there")


def test_the_second_time_the_ids_are_read_and_are_the_same(
    encoder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(tmp_path / "tokens")
    wanted = ids_of(assembled(encoder, data, None))
    assert ids_of(assembled(encoder, data, keeper)) == wanted
    monkeypatch.setattr("training.assembly.tokenised", never)
    again = assembled(encoder, data, Keeper(tmp_path / "tokens", writes=False))
    assert ids_of(again) == wanted
    assert {row.dtype for row in again.objective._token_ids} == {np.dtype(np.int32)}


def test_ids_of_other_rows_lengths_or_tokenizers_are_not_taken(encoder: Path, data: Path, tmp_path: Path) -> None:
    keeper, other = Keeper(tmp_path / "tokens"), make_encoder(tmp_path / "other", seed=1)
    assembled(encoder, data, keeper)
    kept = {*keeper.folder.iterdir()}
    assembled(other, data, keeper)
    assert {*keeper.folder.iterdir()} == kept, "the same tokenizer with other weights"
    assert ids_of(assembled(encoder, data, keeper, max_length=8)) == ids_of(assembled(encoder, data, None, max_length=8))
    settings = other / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"do_lower_case": False}))
    assembled(other, data, keeper)
    data.write_text(data.read_text() + "one more row,positive\n")
    assembled(encoder, data, keeper)
    assert len({*keeper.folder.iterdir()}) == 8


@pytest.mark.parametrize("damage", [lambda content: content[:-4], lambda content: content[:-1] + bytes([content[-1] ^ 1]), lambda _: b""])
def test_a_damaged_file_is_told_of_and_written_anew(
    encoder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    keeper = Keeper(tmp_path / "tokens")
    wanted = ids_of(assembled(encoder, data, keeper))
    whole = {file: file.read_bytes() for file in keeper.folder.iterdir()}
    for file, content in whole.items():
        file.write_bytes(damage(content))
    assert ids_of(assembled(encoder, data, keeper)) == wanted
    assert capsys.readouterr().err.count("the rows are tokenised again") == 2
    assert {file: file.read_bytes() for file in keeper.folder.iterdir()} == whole


def test_a_folder_that_cannot_be_written_to_stops_nothing(
    encoder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tokens").write_text("a file")
    assert ids_of(assembled(encoder, data, Keeper(tmp_path / "tokens"))) == ids_of(assembled(encoder, data, None))
    assert "token ids cannot be kept" in capsys.readouterr().err


def test_workers_that_do_not_write_leave_nothing(encoder: Path, data: Path, tmp_path: Path) -> None:
    assembled(encoder, data, Keeper(tmp_path / "tokens", writes=False))
    assert not (tmp_path / "tokens").exists()
