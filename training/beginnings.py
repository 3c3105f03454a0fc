"""The model that a run begins with, as its recipe says; the export puts the trained parameters into the same."""

from __future__ import annotations

from typing import Any

from corpus.labelled import LabelledData
from encoder.loading import blank_masked_lm, new_classifier, new_masked_lm
from foundation.bundle import PROBLEM_TYPES
from training.beginning_checks import check_family
from training.config import FinetuneConfig, PretrainConfig
from training.fitting import output_bias
from training.tasks import BUNDLE_TASKS, NUMBER_LABEL


def first_masked_lm(recipe: PretrainConfig, location: str, tokenizer: Any, vocabulary: int, *, dropout: float | None) -> Any:
    """A new model, or the encoder at ``location``, with the heads that the recipe trains.

    Args:
        recipe: Of the run.
        location: The encoder's folder or hub id; not read for a new model.
        tokenizer: Of the data.
        vocabulary: Ids that it makes.
        dropout: None keeps what the encoder's configuration says.

    Raises:
        EncoderError: Next-sentence prediction with a family that has no head for it, or a model that cannot be loaded.
    """
    if recipe.new_model is not None:
        return blank_masked_lm(
            recipe.new_model, tokenizer, vocabulary, seed=recipe.seed, dropout=dropout or 0.0, next_sentence=recipe.next_sentence
        )
    model = new_masked_lm(location, seed=recipe.seed, dropout=dropout, vocabulary=vocabulary, next_sentence=recipe.next_sentence)
    if recipe.next_sentence:
        check_family(model.config.model_type, location)
    return model


def first_classifier(recipe: FinetuneConfig, location: str, data: LabelledData, *, keep_dropout: bool = False) -> Any:
    """The encoder at ``location`` with a fresh head for the labels; ``keep_dropout`` leaves its own, as a bundle should."""
    return new_classifier(
        location,
        output_names(data),
        seed=recipe.seed,
        problem_type=PROBLEM_TYPES[BUNDLE_TASKS[data.kind]],
        dropout=None if keep_dropout else recipe.dropout,
        attention_dropout=None if keep_dropout else recipe.attention_dropout,
        output_bias=output_bias(recipe, data) if recipe.output_bias == "class_frequencies" else None,
    )


def output_names(data: LabelledData) -> tuple[str, ...]:
    """A name for each logit."""
    return data.labels if data.kind != "number" else (NUMBER_LABEL,)
