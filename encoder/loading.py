"""Models and tokenizers from a local folder or a hub id, with the errors that people meet said plainly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from foundation.errors import EncoderError
from foundation.references import check_model_folder, check_tokenizer_folder

EMBEDDINGS_MULTIPLE = 64
"""Embeddings are added up to a multiple of this: matrices of such sizes fill the tiles of a GPU (NVIDIA, "Tensor Core requirements").
Those beyond the vocabulary belong to no token and are never asked for."""


def quieten_transformers() -> None:
    """Keep transformers' loading bars and reports off the terminal; what matters of them is raised as an error."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_tokenizer(location: str) -> Any:
    """The fast tokenizer of a model folder or hub id.

    Raises:
        EncoderError: A folder without a tokenizer, or a hub id that cannot be reached.
    """
    from transformers import AutoTokenizer

    check_tokenizer_folder(location)
    with _explained(location):
        return AutoTokenizer.from_pretrained(location, use_fast=True)


def load_config(location: str) -> Any:
    """The model configuration of a folder or hub id."""
    from transformers import AutoConfig

    check_model_folder(location)
    with _explained(location):
        return AutoConfig.from_pretrained(location)


def new_classifier(location: str, labels: Sequence[str], *, seed: int, dropout: float | None = None) -> Any:
    """An encoder with a fresh single-label classification head, in fp32.

    Args:
        location: Encoder folder or hub id.
        labels: Label names in the order of the logits.
        seed: Of the head's initial weights.
        dropout: Overrides hidden and attention dropout; None keeps the encoder's own.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    config = load_config(location)
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = "single_label_classification"
    _set_dropout(config, dropout)
    # The head is drawn from torch's global generator; fork it, so that loading a model moves nobody else's random numbers.
    with torch.random.fork_rng(devices=[]), _explained(location):
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_pretrained(location, config=config, dtype=torch.float32, attn_implementation="sdpa")


def new_masked_lm(location: str, *, seed: int, dropout: float | None = 0.0, vocabulary: int = 0) -> Any:
    """An encoder with its masked-language-model head in fp32; what the encoder lacks is drawn from ``seed``, the decoder is tied.

    Args:
        location: Folder or hub id.
        seed: Of what is drawn.
        dropout: As the encoder's configuration says when None.
        vocabulary: Ids that the tokenizer makes. A model with fewer embeddings gets new ones, up to the next multiple of
            ``EMBEDDINGS_MULTIPLE``; one that has enough stays as it is.
    """
    import torch
    from transformers import AutoModelForMaskedLM

    config = load_config(location)
    _set_dropout(config, dropout)
    with torch.random.fork_rng(devices=[]), _explained(location):
        torch.manual_seed(seed)
        model = AutoModelForMaskedLM.from_pretrained(location, config=config, dtype=torch.float32, attn_implementation="sdpa")
        if vocabulary > model.config.vocab_size:
            model.resize_token_embeddings(vocabulary, pad_to_multiple_of=EMBEDDINGS_MULTIPLE, mean_resizing=False)
        return model


def check_vocabulary(model_config: Any, tokenizer: Any, location: str) -> None:
    """Refuse a tokenizer that makes ids the model has no embedding for."""
    if len(tokenizer) > model_config.vocab_size:
        raise EncoderError(
            f"{location}: the tokenizer makes {len(tokenizer)} ids, the model has {model_config.vocab_size} embeddings; "
            "use the model's own tokenizer"
        )


def positions_of(model_config: Any) -> int | None:
    """Tokens that the model has positions for; None where its configuration tells no limit."""
    limit = getattr(model_config, "max_position_embeddings", None)
    # RoBERTa's family starts counting positions after the padding id.
    offset = model_config.pad_token_id + 1 if model_config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return None if limit is None else int(limit) - offset


def longest_input(model_config: Any, tokenizer: Any, wanted: int, location: str) -> int:
    """``wanted`` tokens if the model has positions for them.

    Raises:
        EncoderError: It has not.
    """
    limit = positions_of(model_config)
    if limit is not None and wanted > limit:
        raise EncoderError(f"{location}: max_length is {wanted} tokens, the model has positions for {limit}; lower max_length")
    return wanted


def _set_dropout(config: Any, dropout: float | None) -> None:
    if dropout is None:
        return
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "classifier_dropout"):
        if isinstance(getattr(config, name, None), (int, float)):
            setattr(config, name, dropout)


class _explained:
    """Turn what transformers raises for a wrong model reference into one message."""

    def __init__(self, location: str) -> None:
        self.location = location

    def __enter__(self) -> None:
        quieten_transformers()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, (OSError, ValueError)) and not isinstance(error, EncoderError):
            first = str(error).strip().splitlines()[0] if str(error).strip() else kind.__name__ if kind else ""
            where = "folder" if os.path.isdir(self.location) else "hub id"
            raise EncoderError(f"{self.location}: this {where} could not be loaded as a model: {first}") from None
