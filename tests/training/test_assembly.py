"""A build and an encoder fit together: by vocabulary, also where the build trained its own, and where embeddings had to be added."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corpus.build import apply
from corpus.config import DataConfig
from corpus.order import StepRows
from corpus.planning import plan
from corpus.stages import map_here
from foundation.errors import ConfigError
from tests.support.tiny import make_encoder, make_packed, write_reviews
from training.assembly import assemble
from training.config import PretrainConfig


def untrained_encoder(folder: Path, tokenizer: Path, vocabulary: int) -> Path:
    """An encoder with an embedding for each token of a build's tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    config = BertConfig(vocab_size=vocabulary, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_a_vocabulary_trained_by_the_build_is_pretrained_on_and_another_encoder_refused(tmp_path: Path) -> None:
    sources = {"reviews": {"path": str(write_reviews(tmp_path / "reviews.csv"))}}
    tree = {"sources": sources, "train_tokenizer": {"vocabulary": 150}, "out": str(tmp_path / "built"), "sequence_length": 48}
    manifest = apply(plan(DataConfig.model_validate(tree), None), map_here)
    encoder = untrained_encoder(tmp_path / "own", tmp_path / "built" / "tokenizer", manifest.tokenizer.vocabulary)
    recipe = PretrainConfig.model_validate({"data": tree["out"], "encoder": str(encoder), "masking": {"whole_words": True}})
    assembly = assemble(recipe, str(encoder))
    assert assembly.model.config.vocab_size == manifest.tokenizer.vocabulary
    assert int(assembly.objective.batch(_rows(4), range(4), 1.0)["documents"].ids_N.max()) < manifest.tokenizer.vocabulary
    other = make_encoder(tmp_path / "other")
    with pytest.raises(ConfigError, match="was tokenised with another vocabulary than the encoder's"):
        assemble(recipe.model_copy(update={"encoder": str(other)}), str(other))


def test_random_replacements_are_tokens_that_exist_where_embeddings_were_padded(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "encoder")
    data = make_packed(tmp_path / "data", encoder)
    masking = {"mask": 0.0, "random": 1.0}
    recipe = PretrainConfig.model_validate({"data": str(data), "encoder": str(encoder), "masking": masking, "mask_share": 0.9})
    assembly = assemble(recipe, str(encoder))
    from corpus.manifest import read_manifest

    vocabulary = read_manifest(data).tokenizer.vocabulary
    assert vocabulary < assembly.model.config.vocab_size
    assert assembly.model.config.vocab_size % 64 == 0
    rows = assembly.objective.rows
    ids = assembly.objective.batch(_rows(rows), range(rows), 1.0)["documents"].ids_N
    assert len(np.unique(ids)) > vocabulary / 2
    assert int(ids.max()) < vocabulary


def _rows(count: int) -> StepRows:
    return StepRows(np.zeros(count, dtype=np.int64), np.arange(count))
