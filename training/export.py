"""Checkpoint to bundle: put the fragments together, save as transformers does, write golden requests and gates, seal."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from corpus.labelled import LabelledData
from corpus.manifest import read_manifest
from corpus.profiling import profile_of
from corpus.shards import TOKENIZER_FOLDER
from encoder.classifier import SequenceClassifier
from encoder.loading import load_tokenizer, new_classifier, new_masked_lm
from foundation.bundle import Bundle, Gate, GoldenRequest, seal
from foundation.home import git_revision
from training.checkpoint import Checkpoint
from training.config import FinetuneConfig, PretrainConfig

GOLDEN_REQUESTS = 8


def gates_of(wanted: Mapping[str, float], metrics: Mapping[str, float], majority_share: float) -> tuple[Gate, ...]:
    """Each wanted metric against what was found; without any, accuracy has to beat always answering the most frequent class."""
    wanted = dict(wanted) or {"accuracy": majority_share}
    return tuple(
        Gate(metric=metric, wanted=least, found=metrics.get(metric, float("-inf")), passed=metrics.get(metric, float("-inf")) >= least)
        for metric, least in wanted.items()
    )


def majority_share(labels: Sequence[int]) -> float:
    """Accuracy of always answering the most frequent class; 0 without rows."""
    counts = torch.bincount(torch.as_tensor(labels, dtype=torch.long)) if len(labels) else torch.zeros(1)
    return float(counts.max() / max(1, len(labels)))


def export_classifier(
    target: Path, checkpoint: Path, recipe: FinetuneConfig, location: str, data: LabelledData, *, run_id: str, metrics: Mapping[str, float]
) -> Bundle:
    """Write the bundle of a fine-tuned checkpoint to ``target``, whole or not at all."""
    model = new_classifier(location, data.labels, seed=recipe.seed)
    Checkpoint.open(checkpoint).load_parameters(model)
    tokenizer = load_tokenizer(location)
    tokenizer.model_max_length = recipe.max_length
    with _published(target, model, tokenizer) as part:
        classifier = SequenceClassifier(model, tokenizer, max_length=recipe.max_length)
        texts = (data.validation.texts or data.train.texts)[:GOLDEN_REQUESTS]
        scores = classifier.score(texts)

        def encode(texts: list[str], pairs: list[str] | None) -> Any:
            return tokenizer(texts, pairs, truncation=True, max_length=recipe.max_length, return_attention_mask=False)["input_ids"]

        golden = tuple(
            GoldenRequest(text=text, scores={label: float(score) for label, score in zip(data.labels, row, strict=True)})
            for text, row in zip(texts, scores, strict=True)
        )
        bundle = seal(
            part,
            task="single_label",
            max_length=recipe.max_length,
            run_id=run_id,
            data_fingerprint=data.fingerprint,
            labels=data.labels,
            git_revision=git_revision(Path(__file__).parent),
            metrics=metrics,
            gates=gates_of(recipe.gates, metrics, majority_share(list(data.validation.labels))),
            golden=golden,
            profile=profile_of(data.train, data.labels, encode),
        )
    return bundle.model_copy(update={"path": target})


def export_encoder(
    target: Path,
    checkpoint: Path,
    recipe: PretrainConfig,
    location: str,
    *,
    run_id: str,
    data_fingerprint: str,
    metrics: Mapping[str, float],
) -> Bundle:
    """Write a continued encoder with its masked-language-model head."""
    data = Path(recipe.data)
    model = new_masked_lm(location, seed=recipe.seed, dropout=None, vocabulary=read_manifest(data).tokenizer.vocabulary)
    Checkpoint.open(checkpoint).load_parameters(model)
    tokenizer = load_tokenizer(str(data / TOKENIZER_FOLDER))
    with _published(target, model, tokenizer) as part:
        bundle = seal(
            part,
            task="masked_lm",
            max_length=model.config.max_position_embeddings,
            run_id=run_id,
            data_fingerprint=data_fingerprint,
            git_revision=git_revision(Path(__file__).parent),
            metrics=metrics,
        )
    return bundle.model_copy(update={"path": target})


@contextmanager
def _published(target: Path, model: Any, tokenizer: Any) -> Iterator[Path]:
    """A hidden folder with model and tokenizer saved; it becomes ``target`` when the block ends and is removed when that fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{secrets.token_hex(3)}")
    try:
        model.save_pretrained(part)
        # Before anything is tokenised: a fast tokenizer would save the truncation that it was last used with.
        tokenizer.save_pretrained(part)
        yield part
        os.rename(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
