"""``raybert schema`` prints, for every kind, a schema that the recipe model itself would give."""

from __future__ import annotations

import json

import pytest

from raybert.main import main
from raybert.verbs.schema import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_schema_that_refuses_unknown_keys(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", kind]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["type"] == "object"
    assert tree["additionalProperties"] is False
    assert tree["properties"]


def test_every_key_of_a_data_recipe_says_what_it_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "data"]) == 0
    tree = json.loads(capsys.readouterr().out)
    models = [tree, *tree["$defs"].values()]
    assert [name for model in models for name, field in model["properties"].items() if "description" not in field] == []


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "data", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "sources" in json.loads(line)["properties"]


def test_an_unknown_kind_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "dta"]) == 2
    assert "'dta': unknown kind; known kinds: data, pretrain, finetune, tune, serve, cluster" in capsys.readouterr().err
