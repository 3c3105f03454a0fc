"""Every stage of a build does its part on planted texts, counts it, and leaves labelled rows alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from corpus.build import apply
from corpus.config import DataConfig, LabelledDataConfig
from corpus.labelled import load_labelled
from corpus.manifest import BuildManifest, StageCount
from corpus.planning import plan
from corpus.shards import PackedRows, map_shard
from corpus.stages import map_here
from corpus.tokenizer import encode, open_tokenizer
from foundation.errors import ConfigError

Recipe = Callable[..., DataConfig]
VOCABULARY = [f"{a}{b}{c}" for a in "bcdfgklmnprst" for b in "aeiou" for c in "lmnrst"]


def prose(seed: int, words: int = 80) -> str:
    random = Random(seed)
    return " ".join(random.choice(VOCABULARY) for _ in range(words))


def build(recipe_for: Recipe, folder: Path, documents: list[str], **values: Any) -> BuildManifest:
    import json

    (folder / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    config = recipe_for(sources={"texts": {"path": str(folder / "in.jsonl")}}, **{"validation_fraction": 0, **values})
    return apply(plan(config, Path(config.tokenizer)), map_here)


def stage(manifest: BuildManifest, name: str) -> StageCount:
    return next(found for found in manifest.stages if found.stage == name)


def packed_documents(folder: Path, manifest: BuildManifest) -> set[int]:
    return {
        int(number) for name in manifest.packed["train"].shards for _, origin in map_shard(folder / name) for number in origin.documents
    }


def test_near_duplicates_leave_one_of_each(recipe_for: Recipe, tmp_path: Path) -> None:
    documents = [prose(seed) for seed in range(20)]
    words = documents[3].split()
    words[10], words[50] = "other", "words"
    manifest = build(recipe_for, tmp_path, [*documents, " ".join(words)], cleaning={"near_duplicates": {}}, batch_documents=4)
    assert stage(manifest, "near-deduplicate").dropped == {"near-duplicate": 1}
    assert packed_documents(tmp_path / "built", manifest) == set(range(20))


def test_held_out_copies_go_before_training_ones(recipe_for: Recipe, tmp_path: Path) -> None:
    documents = [prose(seed) for seed in range(40)] * 2
    manifest = build(recipe_for, tmp_path, documents, validation_fraction=0.5)
    held_out = PackedRows.open(tmp_path / "built", "validation")
    trained = {row.ids[1:20].tobytes() for row in PackedRows.open(tmp_path / "built")}
    assert stage(manifest, "deduplicate").rows_out == 40
    assert not trained & {held_out[number].ids[1:20].tobytes() for number in range(len(held_out))}


def test_repeated_paragraphs_stay_in_the_first_document_only(recipe_for: Recipe, tmp_path: Path) -> None:
    shared = prose(1_000, 20)
    documents = [f"{prose(seed, 10)}\n\n{shared}\n\n{prose(seed + 50, 10)}" for seed in range(5)]
    manifest = build(recipe_for, tmp_path, documents, cleaning={"repeated_paragraphs": 50}, sequence_length=256, batch_documents=2)
    assert stage(manifest, "paragraphs").counts == {"repeated paragraphs": 4}
    (ids,) = encode(open_tokenizer(tmp_path / "built" / "tokenizer").serialised, [shared])
    needle = np.array(ids, dtype=np.int32).tobytes()
    assert sum(row.ids.tobytes().count(needle) for row in PackedRows.open(tmp_path / "built")) == 1


def test_documents_that_share_a_run_of_words_with_an_evaluation_file_go(recipe_for: Recipe, tmp_path: Path) -> None:
    (tmp_path / "evaluation.csv").write_text(f"review\n{prose(7, 30)}\n")
    documents = [prose(seed) for seed in range(10)] + [f"{prose(77)} {' '.join(prose(7, 30).split()[5:20])}"]
    cleaning = {"decontaminate": [str(tmp_path / "evaluation.csv")], "decontaminate_column": "review"}
    manifest = build(recipe_for, tmp_path, documents, cleaning=cleaning)
    # The evaluation text is the beginning of document 7.
    assert stage(manifest, "filter").dropped == {"shares words with evaluation texts": 2}
    assert packed_documents(tmp_path / "built", manifest) == set(range(10)) - {7}
    assert [found[:12] for found in stage(manifest, "filter").examples["shares words with evaluation texts"]] == [
        "in.jsonl#8: ",
        "in.jsonl#11:",
    ]


def test_personal_data_becomes_one_token_and_labelled_rows_keep_it(recipe_for: Recipe, reviews: Path, tmp_path: Path) -> None:
    reviews.write_text(reviews.read_text() + '"write to ann@example.com now",good\n')
    config = recipe_for(validation_fraction=0)
    manifest = apply(plan(config, Path(config.tokenizer)), map_here)
    assert stage(manifest, "within texts").counts == {"email": 1}
    placeholder = manifest.tokenizer.placeholders["[EMAIL]"]
    assert sum(int((row.ids == placeholder).sum()) for row in PackedRows.open(tmp_path / "built")) == 1
    assert "write to ann@example.com now" in load_labelled(LabelledDataConfig(train=config.out)).train.texts
    plain = recipe_for(validation_fraction=0, cleaning={"pii": None}, out=str(tmp_path / "plain"))
    assert apply(plan(plain, Path(plain.tokenizer)), map_here).tokenizer.placeholders == {}
    wrong = recipe_for(cleaning={"pii": {"national_ids": {"ssn": "("}}})
    with pytest.raises(ConfigError, match=r"cleaning\.pii\.national_ids\.ssn"):
        plan(wrong, Path(wrong.tokenizer))


def test_lines_that_stand_in_too_many_documents_go(recipe_for: Recipe, tmp_path: Path) -> None:
    footer = "printed on recycled paper by the same press"
    documents = [f"{prose(seed, 12)}\n{footer} {seed}" for seed in range(8)]
    cleaning = {"boilerplate": {"max_line_documents": 5}}
    manifest = build(recipe_for, tmp_path, documents, cleaning=cleaning, batch_documents=3)
    assert stage(manifest, "within texts").counts == {"frequent lines": 1}
    (ids,) = encode(open_tokenizer(tmp_path / "built" / "tokenizer").serialised, [footer])
    needle = np.array(ids, dtype=np.int32).tobytes()
    assert not any(needle in row.ids.tobytes() for row in PackedRows.open(tmp_path / "built"))


def test_published_rules_and_languages_drop_by_name(recipe_for: Recipe, tmp_path: Path) -> None:
    english = "The house on the hill was sold to the people who have lived in it, and that is the end of the story. " * 4
    german = "Das Haus auf dem Hügel wurde an die Leute verkauft, die darin wohnten, und das ist das Ende der Geschichte. " * 4
    documents = [english + prose(1, 5), german, "too few words"]
    cleaning = {"language": {"keep": ["en"]}, "quality": {"gopher": {"min_words": 20}}}
    manifest = build(recipe_for, tmp_path, documents, cleaning=cleaning)
    dropped = stage(manifest, "filter").dropped
    assert sum(dropped.values()) == 2
    assert any("language" in reason for reason in dropped)
    assert packed_documents(tmp_path / "built", manifest) == {0}


def test_a_sample_a_cap_and_bad_lines_are_told(recipe_for: Recipe, tmp_path: Path) -> None:
    lines = [f'{{"text": "text number {i} is here"}}' for i in range(200)]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines, "{cut"]))
    source = {"path": str(tmp_path / "in.jsonl"), "max_bad_share": 0.1}

    def run(name: str, source: dict[str, Any], **values: Any) -> BuildManifest:
        config = recipe_for(sources={"texts": source}, out=str(tmp_path / name), validation_fraction=0, **values)
        return apply(plan(config, Path(config.tokenizer)), map_here, store=tmp_path / "store")

    whole = run("whole", source)
    assert stage(whole, "read").dropped == {"bad line": 1}
    assert "line 201: not valid JSON" in stage(whole, "read").examples["bad line"][0]
    sampled = run("sampled", source, sample=0.25)
    assert 25 <= sampled.sources["texts"].rows <= 75
    assert run("sampled again", source, sample=0.25, batch_documents=9).fingerprint == sampled.fingerprint
    capped = run("capped", {**source, "cap": 30})
    assert capped.sources["texts"].rows == 30


@pytest.mark.parametrize(
    "text",
    [
        *("我喜欢这部电影。它很好看！", "هذا فيلم جميل جدا", "👩‍👧 🎉🎉", "x", "mixed 中文 и русский, العربية"),
        pytest.param("word " * 2_000_000, id="ten megabytes in one line", marks=pytest.mark.slow),
    ],
)
def test_any_text_goes_through_every_stage(recipe_for: Recipe, tmp_path: Path, text: str) -> None:
    cleaning = {
        "near_duplicates": {},
        "repeated_paragraphs": 20,
        "boilerplate": {"max_line_documents": 50},
        "language": {},
        "quality": {"gopher": {"min_words": 1, "min_stop_words": 0}, "gopher_repetition": {}, "c4": {}, "fineweb": {}},
    }
    manifest = build(recipe_for, tmp_path, [text, *(prose(seed) for seed in range(3))], cleaning={**cleaning, "quality": None})
    assert stage(manifest, "read").rows_in == 4
    assert manifest.packed["train"].documents == 4
    config = recipe_for(cleaning=cleaning)
    assert plan(config, Path(config.tokenizer)).state == "different"


def test_weighted_sources_lie_one_behind_the_other_and_have_their_quota_in_an_epoch(recipe_for: Recipe, tmp_path: Path) -> None:
    for name, seeds in (("wiki", range(60)), ("books", range(60, 80))):
        (tmp_path / f"{name}.txt").write_text("".join(f"{prose(seed, 12)}\n" for seed in seeds))
    sources = {
        "wiki": {"path": str(tmp_path / "wiki.txt"), "weight": 1},
        "books": {"path": str(tmp_path / "books.txt"), "weight": 3},
    }
    config = recipe_for(sources=sources, validation_fraction=0, rows_per_shard=7)
    manifest = apply(plan(config, Path(config.tokenizer)), map_here)
    rows = PackedRows.open(Path(config.out))
    first = manifest.packed["train"].sources["wiki"]
    assert sum(manifest.packed["train"].sources.values()) == len(rows)
    assert all(rows.origins(row).documents.max() < 60 for row in range(first))
    assert all(rows.origins(row).documents.min() >= 60 for row in range(first, len(rows)))
    order = rows.order(seed=3)
    epoch = order.rows_at(np.arange(order.epoch_rows)).rows
    assert abs(int((epoch >= first).sum()) - 0.75 * len(rows)) <= 1
    with pytest.raises(ValueError, match="books has no weight"):
        recipe_for(sources={**sources, "books": {"path": str(tmp_path / "books.txt")}})
