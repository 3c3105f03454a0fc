"""Models and tokenizers from a local folder or a hub id, with the errors that people meet said plainly."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.config import NewModelConfig
from foundation.errors import EncoderError, first_line
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


def new_classifier(
    location: str,
    labels: Sequence[str],
    *,
    seed: int,
    problem_type: str = "single_label_classification",
    dropout: float | None = None,
    attention_dropout: float | None = None,
    output_bias: npt.NDArray[np.float32] | None = None,
) -> Any:
    """An encoder with a sequence-classification head, in fp32; the head is fresh, unless the encoder brings one for as many labels.

    Args:
        location: Encoder folder or hub id.
        labels: Label names in the order of the logits; one for a regression.
        seed: Of the head's initial weights.
        problem_type: As transformers names it.
        dropout: Overrides every dropout; None keeps the encoder's own.
        attention_dropout: Overrides that of attention weights.
        output_bias: (C,) of a fresh head; None is 0.
    """
    from transformers import AutoModelForSequenceClassification

    from encoder.output_bias import begin_with

    config = load_config(location)
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = problem_type
    _set_dropout(config, dropout, attention_dropout)
    model, fresh = _loaded(AutoModelForSequenceClassification, location, config, seed, may_change_head=True)
    if output_bias is not None:
        begin_with(model, output_bias, fresh)
    return model


def new_masked_lm(location: str, *, seed: int, dropout: float | None = 0.0, vocabulary: int = 0, next_sentence: bool = False) -> Any:
    """An encoder with its masked-language-model head in fp32; what the encoder lacks is drawn from ``seed``, the decoder is tied.

    Args:
        location: Folder or hub id.
        seed: Of what is drawn.
        dropout: As the encoder's configuration says when None.
        vocabulary: Ids that the tokenizer makes. A model with fewer embeddings gets new ones, up to the next multiple of
            ``EMBEDDINGS_MULTIPLE``; one that has enough stays as it is.
        next_sentence: With the head for next-sentence prediction besides.
    """
    import torch
    from transformers import AutoModelForMaskedLM, AutoModelForPreTraining

    config = load_config(location)
    _set_dropout(config, dropout)
    model, _ = _loaded(AutoModelForPreTraining if next_sentence else AutoModelForMaskedLM, location, config, seed)
    if vocabulary > model.config.vocab_size:
        if not isinstance(model.get_input_embeddings(), torch.nn.Embedding):  # quantised ones, or parameters without a module
            raise EncoderError(
                f"{location}: the data's tokenizer makes {vocabulary} ids, the model has {model.config.vocab_size} embeddings, and "
                f"transformers adds none to model_type {model.config.model_type}; build the data without placeholders, with the model's "
                "own tokenizer"
            )
        # Some families' own version takes the number only.
        plain = {"mean_resizing": False} if "mean_resizing" in signature(model.resize_token_embeddings).parameters else {}
        with _drawn_from(seed):
            model.resize_token_embeddings(_embeddings(vocabulary), **plain)
    return model


def _embeddings(vocabulary: int) -> int:
    """How many a model has for so many ids."""
    return -(-vocabulary // EMBEDDINGS_MULTIPLE) * EMBEDDINGS_MULTIPLE


def blank_masked_lm(
    shape: NewModelConfig, tokenizer: Any, vocabulary: int, *, seed: int, dropout: float = 0.0, next_sentence: bool = False
) -> Any:
    """An untrained model in fp32, with embeddings for a multiple of ``EMBEDDINGS_MULTIPLE`` ids.

    Args:
        shape: Its family and sizes.
        tokenizer: Whose special tokens the configuration names.
        vocabulary: Ids that the tokenizer makes.
        seed: Of the weights.
        dropout: Everywhere; recent recipes pretrain without.
        next_sentence: With the head for next-sentence prediction besides.
    """
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForPreTraining

    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    given: dict[str, Any] = {
        "vocab_size": _embeddings(vocabulary),
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.attention_heads,
        "intermediate_size": shape.feed_forward,
        "pad_token_id": padding,
        "max_position_embeddings": shape.positions + (padding + 1 if shape.family == "roberta" else 0),
        # Theirs is that of another tokenizer.
        "bos_token_id": tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id,
        "eos_token_id": tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id,
    }
    if shape.family == "modernbert":
        given |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
        # As the published ones: masked-word prediction teaches the first token nothing of the others, which a classifier could read there.
        given["classifier_pooling"] = "mean"
    if shape.family == "distilbert":
        names = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads", "intermediate_size": "hidden_dim"}
        given = {names.get(key, key): value for key, value in given.items()}
    config = AutoConfig.for_model(shape.family, **given)
    _set_dropout(config, dropout)
    with _drawn_from(seed):
        model = (AutoModelForPreTraining if next_sentence else AutoModelForMaskedLM).from_config(config, attn_implementation="sdpa")
    return _able(model.float())


def _loaded(kind: Any, location: str, config: Any, seed: int, *, may_change_head: bool = False) -> tuple[Any, set[str]]:
    """The model at ``location``, fp32, able to compute without padding where its family is; and the names of its fresh parameters.

    ``may_change_head``: a head of another size, such as a classifier's for other labels, is left behind.
    """
    import torch

    load = partial(
        kind.from_pretrained, location, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
    )
    with _drawn_from(seed), _explained(location):
        try:
            model, info = load(attn_implementation="sdpa")
        except ValueError as error:
            # Families whose attention is none that SDPA computes.
            if "scaled_dot_product_attention" not in str(error):
                raise
            model, info = load(attn_implementation="eager")
    others = {str(name): sizes for name, *sizes in info["mismatched_keys"]}
    for name, (held, wanted) in sorted(others.items()):
        if not may_change_head or name.startswith(f"{model.base_model_prefix}."):
            raise EncoderError(
                f"{location}: {name} has the sizes {tuple(held)}, by its configuration they are {tuple(wanted)}; copy the model again"
            )
    return _able(model), {*info["missing_keys"], *others}


def _able(model: Any) -> Any:
    from encoder.padding_free import prepare

    return prepare(model)


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """New weights come from torch's global generator; fork it, so that making a model moves nobody else's random numbers."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def check_vocabulary(model_config: Any, tokenizer: Sized, location: str) -> None:
    """Refuse a tokenizer (or vocabulary) that makes ids the model has no embedding for."""
    if len(tokenizer) > model_config.vocab_size:
        raise EncoderError(
            f"{location}: the tokenizer makes {len(tokenizer)} ids, the model has {model_config.vocab_size} embeddings; "
            "use the model's own tokenizer"
        )


_COUNTING_FROM_PADDING = {
    *("camembert", "data2vec-text", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet"),
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}
"""RoBERTa's kin: their first position is the one behind the padding id."""


def positions_of(model_config: Any) -> int | None:
    """Tokens that the model has positions for; None where its configuration tells no limit."""
    limit = getattr(model_config, "max_position_embeddings", None)
    offset = model_config.pad_token_id + 1 if model_config.model_type in _COUNTING_FROM_PADDING else 0
    return None if limit is None else int(limit) - offset


def longest_input(model_config: Any, wanted: int, location: str, key: str = "max_length") -> int:
    """``wanted`` tokens, which ``key`` asks for, if the model has positions for them.

    Raises:
        EncoderError: It has not.
    """
    limit = positions_of(model_config)
    if limit is not None and wanted > limit:
        raise EncoderError(f"{location}: {key} is {wanted} tokens, the model has positions for {limit}; lower {key}")
    return wanted


_DROPOUT = ("hidden_dropout_prob", "dropout", "embedding_dropout", "mlp_dropout", "classifier_dropout", "seq_classif_dropout")
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")


def _set_dropout(config: Any, dropout: float | None, attention_dropout: float | None = None) -> None:
    of_attention = dropout if attention_dropout is None else attention_dropout
    for names, value in ((_DROPOUT, dropout), (_ATTENTION_DROPOUT, of_attention)):
        for name in names:
            if value is not None and isinstance(getattr(config, name, None), (int, float)):
                setattr(config, name, value)


class _explained:
    """Turn what transformers raises for a wrong model reference into one message."""

    def __init__(self, location: str) -> None:
        self.location = location

    def __enter__(self) -> None:
        quieten_transformers()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, (OSError, ValueError)) and not isinstance(error, EncoderError):
            where = "folder" if os.path.isdir(self.location) else "hub id"
            raise EncoderError(f"{self.location}: this {where} could not be loaded as a model: {first_line(error)}") from None
