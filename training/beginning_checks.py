"""Whether a run can begin: the encoder has the positions, embeddings and head that the recipe needs, and a checkpoint is of its model.

All of it is found before anything is started. A hub id passes what only its files tell; the workers will tell. torch is imported only to
compare a checkpoint, which takes the model itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from corpus.labelled import LabelledData
from corpus.shards import PackedRows
from corpus.tokenizer import vocabulary_of
from encoder.loading import check_vocabulary, load_tokenizer, longest_input
from foundation.errors import ConfigError, EncoderError, RunError
from training.config import FinetuneConfig, PretrainConfig, RunConfig

_NEXT_SENTENCE_FAMILIES = ("bert",)


def check_start(recipe: RunConfig) -> None:
    """Refuse to go on from what is no checkpoint.

    Raises:
        ConfigError: ``start_from`` names no checkpoint.
    """
    if recipe.start_from is not None and not (Path(recipe.start_from) / "checkpoint.json").is_file():
        raise ConfigError(f"start_from: {recipe.start_from}: no checkpoint.json there; give a checkpoint's folder of a run or trial")


def check_checkpoint(recipe: RunConfig, location: str, data: LabelledData | PackedRows) -> None:
    """Refuse to go on from a damaged checkpoint or from another model's.

    Raises:
        ConfigError: Says what is damaged, or which parameter differs.
    """
    if recipe.start_from is None or (location and not Path(location).is_dir()):
        return
    from training.beginnings import first_classifier, first_masked_lm
    from training.checkpoint import Checkpoint

    if isinstance(recipe, FinetuneConfig):
        assert isinstance(data, LabelledData)
        model = first_classifier(recipe, location, data)
    else:
        assert isinstance(recipe, PretrainConfig)
        assert isinstance(data, PackedRows)
        tokenizer, vocabulary = load_tokenizer(str(data.tokenizer_folder)), data.manifest.tokenizer.vocabulary
        model = first_masked_lm(recipe, location, tokenizer, vocabulary, dropout=None)
    try:
        Checkpoint.open(Path(recipe.start_from)).check_model(model)
    except RunError as error:
        raise ConfigError(f"start_from: {error}") from None


def check_length(location: str, longest: int, key: str = "max_length") -> None:
    """Refuse inputs longer than the model has positions for.

    Args:
        location: The encoder.
        longest: Tokens of the longest input.
        key: What sets it.

    Raises:
        EncoderError: It has fewer positions, or its config.json cannot be read.
    """
    if (config := _configuration(location)) is not None:
        longest_input(config, longest, location, key)


def check_embeddings(location: str) -> None:
    """Refuse a tokenizer that makes ids the model has no embedding for.

    Raises:
        EncoderError: It does, or config.json cannot be read.
    """
    config = _configuration(location)
    if config is None or not isinstance(getattr(config, "vocab_size", None), int):
        return
    try:
        known = vocabulary_of(Path(location))
    except EncoderError:
        return  # of a form that only transformers opens
    check_vocabulary(config, known, location)


def check_next_sentence(location: str) -> None:
    """Refuse an encoder whose family has no head for next sentences.

    Raises:
        EncoderError: It has none, or config.json cannot be read.
    """
    if (config := _configuration(location)) is not None:
        check_family(config.model_type, location)


def check_family(model_type: str, location: str) -> None:
    """Refuse a family without a head for next sentences, by transformers' name of it.

    Raises:
        EncoderError: It has none.
    """
    if model_type not in _NEXT_SENTENCE_FAMILIES:
        raise EncoderError(f"{location}: next_sentence is for BERT; this model's model_type is {model_type}")


def _configuration(location: str) -> SimpleNamespace | None:
    """What config.json says; None without one, as of a hub id."""
    file = Path(location) / "config.json"
    if not file.is_file():
        return None
    try:
        return SimpleNamespace(**{"model_type": "", "pad_token_id": 1, **json.loads(file.read_text(encoding="utf-8"))})
    except (ValueError, TypeError) as error:
        raise EncoderError(f"{file}: not a model's configuration: {error}; copy it from the model again") from None
