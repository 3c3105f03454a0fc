"""Whether the token ids of a build are those that an encoder knows. Pure; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from corpus.shards import PackedRows
from corpus.tokenizer import vocabulary_of
from foundation.errors import ConfigError
from training.config import PretrainConfig


def check_encoder(recipe: PretrainConfig, packed: PackedRows, location: str) -> None:
    """Refuse an encoder of another vocabulary before anything starts; a hub id passes, the workers will tell.

    Raises:
        ConfigError: Words have other ids, or are others.
        EncoderError: No readable tokenizer.
    """
    if Path(location).is_dir():
        check_vocabularies(recipe, packed, vocabulary_of(Path(location)), vocabulary_of(packed.tokenizer_folder))


def check_vocabularies(recipe: PretrainConfig, packed: PackedRows, encoder: Mapping[str, int], data: Mapping[str, int]) -> None:
    """Compare what encoder and build know, word to id.

    A build may have put placeholders of personal data where the encoder's vocabulary had unused tokens, or behind its end.

    Raises:
        ConfigError: They differ elsewhere.
    """
    placeholders = packed.manifest.tokenizer.placeholders
    taken = set(placeholders.values())
    known, wanted = (
        {word: number for word, number in vocabulary.items() if word not in placeholders and number not in taken}
        for vocabulary in (encoder, data)
    )
    if known != wanted:
        raise ConfigError(
            f"{recipe.data}: was tokenised with another vocabulary than the encoder's; build the data with tokenizer={recipe.encoder}"
        )
