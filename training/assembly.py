"""From a recipe to the things that the loop runs: data, objective, model, engine. Used by Ray Train workers and by a study's trials.

Everything here happens in one process; communication, where there is any, is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corpus.labelled import LabelledData
from corpus.masks import LinearShare, Masking, Spans
from corpus.order import RowOrder, StepRows
from corpus.positions import linear_ramp
from corpus.shards import PackedRows
from encoder.loading import check_vocabulary, load_tokenizer, longest_input, new_classifier, new_masked_lm
from foundation.errors import ConfigError
from training.checkpoint import Checkpoint
from training.config import FinetuneConfig, PretrainConfig, RunConfig
from training.division import microbatches_of_rank
from training.engine import TorchEngine
from training.hardware import Decisions
from training.loop import Engine
from training.objectives import Classification, MaskedLanguageModel, check_pretrainable
from training.optimisers import freeze
from training.planning import read_labelled, total_steps
from training.preparation import first_loss_scale, prepare
from training.schedule import learning_rate
from training.vocabulary import check_vocabularies


@dataclass(frozen=True)
class Assembly:
    """One run's parts, before an engine is chosen."""

    objective: Any
    """Training rows; ``loader.Objective`` and ``objectives.ModelObjective`` in one."""
    validation: Any
    """The same kind of objective over held-out rows."""
    model: Any
    tokenizer: Any
    steps: int
    data_fingerprint: str
    labels: tuple[str, ...] = ()
    order: RowOrder | None = None
    """Of the training rows; None is every row once an epoch."""


def assemble(recipe: RunConfig, location: str, data: LabelledData | None = None) -> Assembly:
    """Read data and build objective and model.

    Args:
        recipe: A pretrain or finetune recipe.
        location: The encoder's folder or hub id (the recipe's REF, resolved).
        data: Labelled rows, if the caller has read them already.
    """
    if isinstance(recipe, PretrainConfig):
        return _pretraining(recipe, location)
    assert isinstance(recipe, FinetuneConfig)
    return _finetuning(recipe, location, data or read_labelled(recipe))


def _finetuning(recipe: FinetuneConfig, location: str, data: LabelledData) -> Assembly:
    tokenizer = load_tokenizer(location)
    model = new_classifier(location, data.labels, seed=recipe.seed, dropout=recipe.dropout)
    freeze(model, recipe.freeze)
    check_vocabulary(model.config, tokenizer, location)
    longest_input(model.config, tokenizer, recipe.max_length, location)

    def objective(split: Any) -> Classification:
        encoded = tokenizer(split.texts, truncation=True, max_length=recipe.max_length, return_attention_mask=False)["input_ids"]
        return Classification(encoded, split, classes=len(data.labels), pad_id=tokenizer.pad_token_id or 0)

    return Assembly(
        objective=objective(data.train),
        validation=objective(data.validation),
        model=model,
        tokenizer=tokenizer,
        steps=total_steps(recipe, len(data.train)),
        data_fingerprint=data.fingerprint,
        labels=data.labels,
    )


def _pretraining(recipe: PretrainConfig, location: str) -> Assembly:
    packed = PackedRows.open(Path(recipe.data))
    tokenizer = load_tokenizer(str(packed.tokenizer_folder))
    check_vocabularies(recipe, packed, load_tokenizer(location).get_vocab(), tokenizer.get_vocab())
    model = new_masked_lm(location, seed=recipe.seed, dropout=recipe.dropout, vocabulary=packed.manifest.tokenizer.vocabulary)
    check_pretrainable(model.config.model_type, location)
    longest_input(model.config, tokenizer, packed.sequence_length, location)

    share: float | LinearShare = recipe.mask_share
    if recipe.masking.final_share is not None:
        share = LinearShare(recipe.steps, recipe.mask_share, recipe.masking.final_share)
    continues = _continuing(tokenizer, packed.manifest.tokenizer.vocabulary, recipe.encoder) if recipe.masking.whole_words else None
    spans = Spans() if recipe.masking.spans else None
    masking = Masking(recipe.masking.mask, recipe.masking.random, spans, recipe.masking.predictions_per_row)

    def objective(rows: PackedRows) -> MaskedLanguageModel:
        return MaskedLanguageModel(
            rows,
            mask_share=share,
            masking=masking,
            continues=continues,
            seed=recipe.seed,
            mask_id=tokenizer.mask_token_id,
            pad_id=tokenizer.pad_token_id or 0,
            # Not the model's: its embeddings may be padded beyond the last token.
            vocabulary=packed.manifest.tokenizer.vocabulary,
        )

    return Assembly(
        objective=objective(packed),
        validation=objective(PackedRows.open(Path(recipe.data), "validation")),
        model=model,
        tokenizer=tokenizer,
        steps=recipe.steps,
        data_fingerprint=packed.manifest.fingerprint,
        order=packed.order(recipe.seed, short_first=recipe.curriculum == "short_first"),
    )


def _continuing(tokenizer: Any, vocabulary: int, encoder: str) -> Any:
    """(V,) which tokens continue a word."""
    continues = np.zeros(vocabulary, dtype=np.bool_)
    continues[[number for word, number in tokenizer.get_vocab().items() if word.startswith("##")]] = True
    if not continues.any():
        raise ConfigError(f"masking.whole_words: {encoder} has no WordPiece vocabulary, so its tokens do not say which word they continue")
    return continues


def torch_engine(
    assembly: Assembly, recipe: RunConfig, decisions: Decisions, *, device: torch.device, checkpoint: Checkpoint | None
) -> TorchEngine:
    """The reference engine over an assembly."""
    prepare(assembly.model, recipe, decisions)
    return TorchEngine(
        assembly.model,
        assembly.objective,
        recipe.optimiser,
        device=device,
        checkpoint=checkpoint,
        precision=decisions.precision.value,
        loss_scale=first_loss_scale(decisions, checkpoint),
    )


def rate_of(recipe: RunConfig, steps: int) -> Callable[[int], float]:
    """The recipe's learning rate as a function of the step."""
    return lambda step: learning_rate(step, steps=steps, config=recipe.schedule)


def loop_arguments(recipe: RunConfig, steps: int) -> dict[str, Any]:
    """What ``loop.train`` takes from a recipe."""
    ramp = recipe.batch_ramp if isinstance(recipe, PretrainConfig) else None
    batches = linear_ramp(ramp.first_rows, recipe.rows_per_step, increment=ramp.increment, over_rows=ramp.over_rows) if ramp else None
    return {
        "batches": batches,
        "rows_per_step": recipe.rows_per_step,
        "rows_per_microbatch": recipe.rows_per_microbatch,
        "prefetch_steps": recipe.prefetch_steps,
        "seed": recipe.seed,
        "learning_rate": rate_of(recipe, steps),
        "seed_noise": torch.manual_seed,
        "guard": recipe.guard,
    }


def evaluate(engine: Engine, validation: Any, *, rows_per_batch: int = 64) -> dict[str, float]:
    """Metrics over all held-out rows, the same on every rank; collective.

    Held-out and training objectives count alike, so a batch of one can be computed by the engine that wraps the other.
    """
    everything = StepRows(np.zeros(validation.rows, dtype=np.int64), np.arange(validation.rows, dtype=np.int64))
    plan = microbatches_of_rank(validation.lengths(everything), engine.rank, engine.world_size, rows_per_batch)
    sums: list[float] = []
    for micro in plan:
        counts = engine.evaluate(validation.batch(everything, micro.members, micro.weight))
        sums = [a + b for a, b in zip(sums, counts, strict=True)] if sums else list(counts)
    metrics: dict[str, float] = validation.metrics(engine.total(sums))
    return metrics


def is_stale(evaluations: Sequence[tuple[int, float]], *, patience: int | None, order: str) -> bool:
    """Whether the last ``patience`` evaluations brought nothing better than those before; pure, so that a resumed run stops alike."""
    if patience is None or len(evaluations) <= patience:
        return False
    best = max if order == "max" else min
    scores = [score for _, score in evaluations]
    earlier, recent = best(scores[:-patience]), best(scores[-patience:])
    return recent <= earlier if order == "max" else recent >= earlier
