"""Pretraining objectives: next sentences as transformers computes them, documents that grow, and steps that micro-batches do not change."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from corpus.order import StepRows
from encoder.config import AttentionKind
from foundation.errors import ConfigError, EncoderError
from tests.support.steps import assert_near, gradients, one_thread
from tests.support.tiny import make_distilbert, make_encoder, make_packed, make_roberta_encoder
from training.assembly import Assembly, assemble
from training.config import PretrainConfig
from training.division import Limits
from training.engine import TorchEngine
from training.loop import train
from training.objectives import LengthRamp
from training.optimiser_config import OptimiserConfig
from training.planning import plan

# N tokens, D documents, T tokens of the longest, M masked positions


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


class Place:
    """A tiny BERT and packed rows of its tokens, built with one short source."""

    def __init__(self, folder: Path) -> None:
        self.encoder = make_encoder(folder / "encoder")
        self.data = make_packed(folder / "packed", self.encoder)

    def recipe(self, **more: Any) -> PretrainConfig:
        tree = {"data": str(self.data), "encoder": str(self.encoder), "steps": 10, "rows_per_step": 8, "seed": 3}
        return PretrainConfig.model_validate(tree | more)

    def assembled(self, kind: AttentionKind = "runs", **more: Any) -> Assembly:
        return assemble(self.recipe(**more), str(self.encoder), attention=kind)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("pretraining"))


def first_rows(count: int, *, epoch: int = 0, step: int | None = 0) -> StepRows:
    return StepRows(np.full(count, epoch, np.int64), np.arange(count), step)


@pytest.mark.parametrize("kind", ["runs", "block", "padded"])
def test_with_next_sentences_loss_and_gradients_are_those_of_transformers_own_pretraining_model(place: Place, kind: AttentionKind) -> None:
    assembly = place.assembled(kind, next_sentence=True)
    objective, model, rows = assembly.objective, assembly.model.train(), first_rows(6)
    batch = objective.batch(rows, range(6), 1.0)
    assert set(batch["is_other"].tolist()) >= {0, 1}, "both kinds of pairs should be in the batch"
    found = batch["documents"]
    labels_N = torch.full_like(found.ids_N, -100)
    labels_N[found.asked_K[batch["masked"]]] = batch["labels"]
    cuts = list(pairwise(found.layout.ends.tolist()))

    def padded(values_N: torch.Tensor, filler: int) -> torch.Tensor:
        return pad_sequence([values_N[a:b] for a, b in cuts], batch_first=True, padding_value=filler)

    output = model(
        input_ids=padded(found.ids_N, 0),
        attention_mask=padded(torch.ones_like(found.ids_N), 0),
        token_type_ids=padded(found.types_N, 0),
        labels=padded(labels_N, -100),
        next_sentence_label=torch.where(batch["is_other"] < 0, -100, batch["is_other"]),
    )
    ours = objective.loss_sum(model, batch) / objective.count(rows)
    torch.testing.assert_close(ours, output.loss, rtol=1e-5, atol=1e-5)
    assert_near(gradients(model, ours), gradients(model, output.loss))


CASES: dict[str, dict[str, Any]] = {
    "masked": {},
    "next sentence": {"next_sentence": True},
    "spans of whole words": {"masking": {"whole_words": True, "spans": True, "final_share": 0.3}},
    "growing documents": {"length_ramp": {"first_tokens": 8, "over_steps": 5}},
}


def one_step(assembly: Assembly, limits: Limits) -> tuple[float, Any]:
    # Epsilon is large, because Adam's first step is the sign of gradients above it, also of those that are 0 but for rounding.
    engine = TorchEngine(copy.deepcopy(assembly.model), assembly.objective, OptimiserConfig(epsilon=1e-3))
    arguments: Any = {"steps": 1, "rows_per_step": 8, "seed": 3, "learning_rate": lambda _: 1e-2, "seed_noise": torch.manual_seed}
    (report,) = train(engine, assembly.objective, limits=limits, **arguments)
    return report.loss, dict(engine.model.named_parameters())


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_give_the_same_step_however_it_is_divided(place: Place, case: str) -> None:
    assembly = place.assembled(**CASES[case])
    wanted_loss, wanted = one_step(assembly, Limits(10**6))
    for limits in (Limits(10**6, 1), Limits(10**6, 2), Limits(10**6, 4), Limits(40), Limits(97), Limits(150)):
        found_loss, found = one_step(assembly, limits)
        assert found_loss == pytest.approx(wanted_loss, rel=1e-5)
        assert_near(found, wanted)


def test_held_out_pairs_are_counted_with_what_chance_would_say(place: Place) -> None:
    assembly = place.assembled(next_sentence=True)
    objective, model, rows = assembly.validation, assembly.model.eval(), first_rows(assembly.validation.rows, step=None)
    with torch.no_grad():
        whole = objective.counts(model, objective.batch(rows, range(objective.rows), 1.0))
        parts = sum(objective.counts(model, objective.batch(rows, [row], 1.0)) for row in range(objective.rows))
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)
    metrics = objective.metrics(whole.tolist())
    assert set(metrics) == {"validation_loss", "masked_accuracy", "next_sentence_loss", "next_sentence_accuracy"}
    assert 0 < metrics["next_sentence_accuracy"] < 1
    assert whole[1] == objective.count(rows)


def test_a_step_is_counted_once_however_many_micro_batches_of_pairs_it_has(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = place.assembled(next_sentence=True).objective
    counted = []
    count = objective.count
    monkeypatch.setattr(objective, "count", lambda rows: counted.append(rows.step) or count(rows))
    for step in (0, 1, 0):
        rows = first_rows(8, step=step)
        weights = {float(objective.batch(rows, [row], 1.0)["pair_weight"]) for row in range(8)}
        assert len(weights) == 1
    assert counted == [0, 1, 0]


@pytest.mark.parametrize("make", [make_roberta_encoder, make_distilbert])
def test_next_sentences_are_refused_for_families_without_a_head_for_them(make: Any, tmp_path: Path) -> None:
    encoder = make(tmp_path / "encoder")
    data = make_packed(tmp_path / "packed", encoder)
    recipe = PretrainConfig.model_validate({"data": str(data), "encoder": str(encoder), "next_sentence": True})
    family = "roberta" if make is make_roberta_encoder else "distilbert"
    for refused in (lambda: plan("pretrain", recipe), lambda: assemble(recipe, str(encoder))):
        with pytest.raises(EncoderError, match=f"next_sentence is for BERT; this model's model_type is {family}"):
            refused()


def test_next_sentences_and_growing_documents_are_not_both_to_be_had(place: Place) -> None:
    with pytest.raises(ValueError, match=r"next_sentence needs whole documents, but length_ramp cuts them"):
        place.recipe(next_sentence=True, length_ramp={"first_tokens": 8, "over_steps": 5})


def test_growing_documents_have_the_tokens_and_masks_of_whole_ones_in_pieces_of_bounded_length(place: Place) -> None:
    ramp = {"first_tokens": 8, "over_steps": 6}
    whole, growing = place.assembled().objective, place.assembled(length_ramp=ramp).objective
    longest = []
    for step in range(8):
        rows = first_rows(5, epoch=step, step=step)
        wanted, found = (objective.batch(rows, range(5), 1.0) for objective in (whole, growing))
        lengths = found["documents"].layout.lengths
        longest.append(max(lengths))
        assert max(lengths) <= LengthRamp(8, 6, 48).at(step)
        assert growing.count(rows) == whole.count(rows)
        assert sorted(found["documents"].ids_N.tolist()) == sorted(wanted["documents"].ids_N.tolist())
        assert sorted(found["labels"].tolist()) == sorted(wanted["labels"].tolist())
        asked = [sorted(one["documents"].ids_N[one["documents"].asked_K].tolist()) for one in (found, wanted)]
        assert asked[0] == asked[1]
        starts = found["documents"].layout.ends[:-1].long()
        assert (found["documents"].positions_N[starts] == 0).all()
    assert longest[0] <= 8 < longest[-1]
    assert longest[-1] == max(whole.batch(first_rows(5, epoch=7), range(5), 1.0)["documents"].layout.lengths)


def test_held_out_documents_are_whole_while_those_in_training_grow(place: Place) -> None:
    held = place.assembled(length_ramp={"first_tokens": 8, "over_steps": 6}).validation
    rows = first_rows(held.rows, step=None)
    wanted = place.assembled().validation.batch(rows, range(held.rows), 1.0)
    assert held.batch(rows, range(held.rows), 1.0)["documents"].layout.lengths == wanted["documents"].layout.lengths


@pytest.mark.parametrize(("step", "tokens"), [(0, 8), (1, 14), (5, 41), (6, 48), (999, 48), (None, 48)])
def test_the_longest_piece_grows_linearly_to_the_whole_document(step: int | None, tokens: int) -> None:
    assert LengthRamp(8, 6, 48).at(step) == tokens


def test_data_that_is_tokenised_otherwise_is_refused(place: Place, tmp_path: Path) -> None:
    other = make_roberta_encoder(tmp_path / "other")
    with pytest.raises(ConfigError, match="was tokenised with another vocabulary than the encoder's"):
        plan("pretrain", place.recipe(encoder=str(other)))
