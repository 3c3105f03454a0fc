"""A build that trains its own tokenizer: on kept training texts alone, once, and with the same bytes after a cut. And what tokenising
tells about texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corpus import report, tokenising
from corpus.build import apply
from corpus.config import DataConfig
from corpus.manifest import MANIFEST, BuildManifest, TokenisedRecord, read_manifest
from corpus.planning import plan
from corpus.shards import PackedRows
from corpus.stages import map_here
from foundation.config import parse
from foundation.errors import ConfigError
from raybert.main import main
from tests.support.cutting import Cut, Mapper

Recipe = Callable[..., DataConfig]
SMALL = {"vocabulary": 400}


def build(config: DataConfig, store: Path | None = None, mapper: Any = map_here) -> BuildManifest:
    return apply(plan(config, None if config.tokenizer is None else Path(config.tokenizer)), mapper, store=store)


def vocabulary(config: DataConfig) -> set[str]:
    return set((Path(config.out) / "tokenizer" / "vocab.txt").read_text(encoding="utf-8").splitlines())


def sign(number: int) -> str:
    """A character that stands in one document alone."""
    return chr(0x4E00 + number)


@pytest.fixture
def own_recipe(recipe_for: Recipe, tmp_path: Path) -> Callable[..., DataConfig]:
    """A recipe that trains a tokenizer on sixty short documents, ten of which are dropped, and has ten test rows."""
    texts = [f"{sign(i)} is one of the signs of document {i}" for i in range(50)]
    (tmp_path / "texts.txt").write_text("\n".join([*texts, *(sign(i) for i in range(50, 60))]), encoding="utf-8")
    (tmp_path / "test.txt").write_text("\n".join(f"{sign(i)} is one of the signs" for i in range(60, 70)), encoding="utf-8")
    sources = {"texts": {"path": str(tmp_path / "texts.txt")}, "test": {"path": str(tmp_path / "test.txt"), "split": "test"}}

    def make(**values: Any) -> DataConfig:
        cleaning = {"min_characters": 5}
        return recipe_for(
            **{"sources": sources, "tokenizer": None, "train_tokenizer": SMALL, "cleaning": cleaning, "batch_documents": 8, **values}
        )

    return make


def test_only_kept_training_texts_are_learned_from(own_recipe: Recipe) -> None:
    config = own_recipe()
    manifest = build(config)
    out = Path(config.out)
    trained = {int(number) for row in range(manifest.packed["train"].rows) for number in PackedRows.open(out).origins(row).documents}
    held_back = PackedRows.open(out, "validation")
    unseen = manifest.packed["validation"].documents
    assert len(trained) == 50 - unseen < 50
    assert {sign(i) for i in range(70)} & vocabulary(config) == {sign(i) for i in trained}
    # Validation documents hold a sign that was never seen in training, and it is unknown.
    assert all((row.ids == 1).sum() == len(row.starts) for row in held_back)
    assert manifest.tokenised["texts"].unknown == unseen
    assert manifest.tokenizer.placeholders["[EMAIL]"] == 5


def test_a_limit_of_characters_draws_documents_by_seed(own_recipe: Recipe, tmp_path: Path) -> None:
    def learned(number: int, **values: Any) -> set[str]:
        config = own_recipe(out=str(tmp_path / str(number)), train_tokenizer={**SMALL, "characters": 600}, **values)
        build(config)
        return {sign(i) for i in range(50)} & vocabulary(config)

    some = learned(1, validation_fraction=0)
    assert 5 < len(some) < 30  # documents have 39 characters
    assert learned(2, validation_fraction=0, batch_documents=50) == some
    assert learned(3, validation_fraction=0, seed=1) != some


@pytest.mark.parametrize("fail_at", [3, 12, 17, 24, 30, 35])
def test_a_cut_build_goes_on_and_ends_in_the_same_bytes(own_recipe: Recipe, tmp_path: Path, fail_at: int) -> None:
    wanted = build(own_recipe(out=str(tmp_path / "undisturbed"))).files
    with pytest.raises(Cut):
        build(own_recipe(), tmp_path / "store", Mapper(fail_at))
    second = Mapper()
    assert build(own_recipe(), tmp_path / "store", second).files == wanted
    assert sum(second.done.values()) == 3 * 12 - fail_at


def test_a_tokenizer_that_was_trained_is_not_trained_again(own_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    first = build(own_recipe(), store)
    monkeypatch.setattr(tokenising, "learn", lambda *_: pytest.fail("it was learned again"))
    mapper = Mapper()
    again = build(own_recipe(out=str(tmp_path / "again"), sequence_length=32), store, mapper)
    assert again.tokenizer == first.tokenizer
    assert not mapper.done
    monkeypatch.undo()
    # Another size learns anew from the words that were counted before.
    other = build(own_recipe(out=str(tmp_path / "other"), train_tokenizer={"vocabulary": 110}), store, mapper)
    assert other.tokenizer.sha256 != first.tokenizer.sha256
    assert mapper.done == {"Tokenise": 12}


def test_the_same_recipe_is_recognised_and_another_vocabulary_is_not(own_recipe: Recipe) -> None:
    config = own_recipe()
    planned = plan(config, None)
    assert (planned.state, planned.as_json()["tokenizer"]["trained_here"]["vocabulary"]) == ("new", 400)
    build(config)
    assert plan(config, None).state == "up to date"
    assert plan(own_recipe(train_tokenizer={"vocabulary": 399}), None).state == "different"
    assert plan(own_recipe(train_tokenizer={**SMALL, "lowercase": False}), None).state == "different"


def test_a_dry_run_shows_what_would_be_trained_and_touches_nothing(
    own_recipe: Recipe, tmp_path: Path, raybert_home: Path, capsys: pytest.CaptureFixture[str], unchanged_tree: Any
) -> None:
    given = f"sources={{texts: {{path: {tmp_path / 'texts.txt'}}}}}"
    with unchanged_tree(tmp_path):
        assert main(["data", "build", given, f"out={tmp_path / 'built'}", "train_tokenizer.vocabulary=99", "--dry-run", "--json"]) == 0
        planned = json.loads(capsys.readouterr().out)
        assert planned["tokenizer"]["trained_here"]["vocabulary"] == 99
        assert "[EMAIL]" in planned["tokenizer"]["placeholders"]
        assert main(["data", "build", given, f"out={tmp_path / 'built'}"]) == 2
    assert "give either tokenizer (a model REF) or train_tokenizer" in capsys.readouterr().err


def test_a_build_with_a_trained_tokenizer_continues_as_a_given_one(own_recipe: Recipe, tmp_path: Path) -> None:
    first = build(own_recipe())
    given = own_recipe(out=str(tmp_path / "given"), tokenizer=str(tmp_path / "built" / "tokenizer"), train_tokenizer=None)
    second = build(given)
    assert second.tokenizer == first.tokenizer
    assert second.files == first.files


def test_a_recipe_has_exactly_one_tokenizer(recipe_for: Recipe) -> None:
    tree = recipe_for().model_dump(mode="json")
    for values in ({"tokenizer": None}, {"train_tokenizer": {}}):
        with pytest.raises(ConfigError, match=r"r.yaml: recipe: give either tokenizer .* or train_tokenizer .*, one of them"):
            parse(DataConfig, {**tree, **values}, where="r.yaml")


def test_tokens_a_word_and_unknown_ones_are_told_for_every_source(recipe_for: Recipe, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_text("ab c, de!\nfgh\n", encoding="utf-8")
    (tmp_path / "greek.txt").write_text("ab αβγ\nαβγ 中文 x\nα\n", encoding="utf-8")
    sources = {name: {"path": str(tmp_path / f"{name}.txt")} for name in ("latin", "greek")}
    # The tokenizer knows single letters a to z: a token for each, and one for each sign.
    manifest = build(recipe_for(sources=sources, validation_fraction=0.3, cleaning={"min_characters": 2}))
    assert manifest.tokenised == {
        "latin": TokenisedRecord(words=4, tokens=10, unknown=0, fertility=2.5, unknown_share=0.0),
        "greek": TokenisedRecord(words=6, tokens=7, unknown=4, fertility=1.1667, unknown_share=0.571429),
    }
    lines = [" ".join(line.split()) for line in report.text(manifest).splitlines()]
    assert "latin 4 10 2.50 0.000 %" in lines
    assert "greek 6 7 1.17 57.143 %" in lines
    assert "<td>greek</td><td class=n>6</td><td class=n>7</td><td class=n>1.17</td><td class=n>57.143 %</td>" in report.page(manifest, "A")


def test_a_manifest_without_figures_of_tokens_is_read_and_shown(recipe_for: Recipe) -> None:
    config = recipe_for()
    manifest = build(config)
    tree = manifest.model_dump(mode="json")
    del tree["tokenised"]
    (Path(config.out) / MANIFEST).write_text(BuildManifest.model_validate(tree).model_dump_json(exclude={"tokenised"}))
    older = read_manifest(Path(config.out))
    assert older == manifest.model_copy(update={"tokenised": {}})
    assert "a word" not in report.text(older)
    assert "tokens a word" not in report.page(older, "A")
    assert plan(config, Path(str(config.tokenizer))).state == "up to date"
