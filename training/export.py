"""Checkpoint to bundle: put the fragments together, save as transformers does, write golden requests and gates, seal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from corpus.labelled import LabelledData
from corpus.manifest import read_manifest
from corpus.profiling import profile_of
from corpus.shards import TOKENIZER_FOLDER
from encoder.classifier import SequenceClassifier
from encoder.loading import load_tokenizer
from encoder.padding_free import position_offset
from foundation.bundle import Bundle, Gate, seal
from foundation.folders import new_folder
from foundation.home import git_revision
from training.beginnings import first_classifier, first_masked_lm, output_names
from training.checkpoint import Checkpoint
from training.config import FinetuneConfig, PretrainConfig
from training.evaluation import constant_answer, inputs, metrics_of
from training.tasks import BUNDLE_TASKS

GOLDEN_REQUESTS = 8


def gates_of(wanted: Mapping[str, float], metrics: Mapping[str, float], truth: np.ndarray) -> tuple[Gate, ...]:
    """Each wanted metric against what was found (one not measured fails); without any, the model has to be as good as the best answer that
    ignores the text."""
    return tuple(Gate.check(name, figure, metrics.get(name, float("nan"))) for name, figure in (wanted or constant_answer(truth)).items())


def shared_threshold(scores_NC: np.ndarray, truth_NC: np.ndarray) -> float:
    """The score from which on a label is answered with the best micro-F1, the same for all labels: few rows held back tell one number well,
    a number for each label badly.

    Args:
        scores_NC: Of rows and labels, 0 to 1.
        truth_NC: Which labels apply.
    """
    order = np.argsort(-scores_NC, axis=None)
    scores, right = scores_NC.ravel()[order], truth_NC.ravel()[order]
    f1 = 2 * np.cumsum(right) / np.maximum(1, np.arange(1, len(right) + 1) + right.sum())
    best = int(f1.argmax())
    # Half way to the next score, so that rounding elsewhere decides no row.
    following = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float((scores[best] + following) / 2)


def export_classifier(
    target: Path,
    checkpoint: Checkpoint,
    recipe: FinetuneConfig,
    location: str,
    data: LabelledData,
    *,
    run_id: str,
    metrics: Mapping[str, float],
) -> Bundle:
    """Write the bundle of a fine-tuned checkpoint to ``target``, whole or not at all."""
    model = first_classifier(recipe, location, data, keep_dropout=True)
    checkpoint.load_parameters(model)
    tokenizer = load_tokenizer(location)
    tokenizer.model_max_length = recipe.max_length
    names, held = output_names(data), data.validation
    with _published(target, model, tokenizer) as part:
        classifier = SequenceClassifier(model, tokenizer, max_length=recipe.max_length)
        thresholds = None
        if data.kind == "list":
            scores_NC = classifier.score(inputs(held))
            thresholds = dict.fromkeys(names, shared_threshold(scores_NC, held.labels))
            metrics = dict(metrics) | metrics_of(held.labels, scores_NC >= thresholds[names[0]], len(names))

        def encode(texts: list[str], pairs: list[str] | None) -> Any:
            return tokenizer(texts, pairs, truncation=True, max_length=recipe.max_length, return_attention_mask=False)["input_ids"]

        bundle = seal(
            part,
            task=BUNDLE_TASKS[data.kind],
            max_length=recipe.max_length,
            run_id=run_id,
            data_fingerprint=data.fingerprint,
            labels=names,
            takes_pairs=data.has_pairs,
            thresholds=thresholds,
            git_revision=git_revision(Path(__file__).parent),
            metrics=metrics,
            gates=gates_of(recipe.gates, metrics, held.labels),
            golden=classifier.golden(inputs(held)[:GOLDEN_REQUESTS]),
            profile=profile_of(data.train, data.labels, encode),
        )
    return bundle.model_copy(update={"path": target})


def export_encoder(
    target: Path,
    checkpoint: Checkpoint,
    recipe: PretrainConfig,
    location: str,
    *,
    run_id: str,
    data_fingerprint: str,
    metrics: Mapping[str, float],
) -> Bundle:
    """Write a continued encoder with its masked-language-model head."""
    data = Path(recipe.data)
    tokenizer = load_tokenizer(str(data / TOKENIZER_FOLDER))
    model = first_masked_lm(recipe, location, tokenizer, read_manifest(data).tokenizer.vocabulary, dropout=None)
    checkpoint.load_parameters(model)
    with _published(target, model, tokenizer) as part:
        bundle = seal(
            part,
            task="masked_lm",
            max_length=model.config.max_position_embeddings - position_offset(model),
            run_id=run_id,
            data_fingerprint=data_fingerprint,
            git_revision=git_revision(Path(__file__).parent),
            metrics=metrics,
        )
    return bundle.model_copy(update={"path": target})


@contextmanager
def _published(target: Path, model: Any, tokenizer: Any) -> Iterator[Path]:
    """A hidden folder with model and tokenizer saved; it becomes ``target`` when the block ends and is removed when that fails."""
    with new_folder(target) as part:
        model.save_pretrained(part)
        # Before anything is tokenised: a fast tokenizer would save the truncation that it was last used with.
        tokenizer.save_pretrained(part)
        yield part
