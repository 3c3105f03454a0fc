"""From recipe to a model that transformers loads, in one process: new encoders, classifiers made of them, families that need padding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpus.shards import PackedRows
from encoder.config import AttentionKind
from encoder.padding_free import averages
from foundation.bundle import open_bundle
from foundation.errors import EncoderError
from tests.support.steps import one_thread
from tests.support.tiny import make_encoder, make_packed, make_roberta_encoder, write_reviews, write_tokenizer
from training.assembly import Assembly, assemble, evaluate, loop_arguments
from training.checkpoint import Checkpoint, Progress, write_manifest
from training.config import FinetuneConfig, PretrainConfig, RunConfig
from training.engine import TorchEngine
from training.export import export_classifier, export_encoder
from training.loop import train
from training.planning import plan, read_labelled
from training.workload import limits_of

pytestmark = pytest.mark.slow
FAMILIES = ("bert", "roberta", "distilbert", "modernbert")


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home of its own, and one thread."""
    monkeypatch.setenv("RAYBERT_HOME", str(tmp_path / "home"))
    with one_thread():
        yield


def trained(recipe: RunConfig, assembly: Assembly, folder: Path) -> tuple[Path, list[float], dict[str, float]]:
    """Run a recipe's steps; returns the last checkpoint, the losses, and the metrics of held-out rows."""
    engine = TorchEngine(assembly.model, assembly.objective, recipe.optimiser)
    reports = list(
        train(
            engine,
            assembly.objective,
            steps=assembly.steps,
            order=assembly.order,
            **loop_arguments(recipe, assembly.steps, assembly.attention),
        )
    )
    progress = Progress(assembly.steps, reports[-1].optimiser_steps)
    write_manifest(folder, progress, engine.save(folder), engine.shapes(), {"test": True})
    metrics = evaluate(engine, assembly.validation, limits_of(recipe, assembly.attention))
    return folder, [report.loss for report in reports], metrics


def padded_logits(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    given = tokenizer(texts, padding=True, return_tensors="pt")
    if model.config.model_type in ("distilbert", "modernbert"):
        given.pop("token_type_ids", None)
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(**given).logits
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_from_scratch_is_what_transformers_loads_and_a_classifier_begins_with(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

    known = (make_roberta_encoder if family == "roberta" else make_encoder)(tmp_path / "tokenizer")
    data = make_packed(tmp_path / "packed", known)
    tree = {
        "data": str(data),
        # From zeros it has more to learn, so that thirty steps show it.
        "new_model": {"family": family, "layers": 2, "hidden": 32, "heads": 2, "positions": 64, "output_bias": "zeros"},
        "steps": 30,
        "rows_per_step": 8,
        "schedule": {"peak_lr": 1e-2},
        "mask_share": 0.3,
        "masking": {"final_share": 0.15},
    }
    pretraining = PretrainConfig.model_validate(tree)
    planned = plan("pretrain", pretraining)
    assembly = assemble(pretraining, planned.location)
    assert assembly.attention == "runs"
    counted = sum(parameter.numel() for parameter in assembly.model.parameters())
    assert planned.parameters == pytest.approx(counted, rel=0.1)
    checkpoint, losses, metrics = trained(pretraining, assembly, tmp_path / "checkpoint")
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    bundle = export_encoder(
        tmp_path / "bundle",
        Checkpoint.open(checkpoint),
        pretraining,
        planned.location,
        run_id="run",
        data_fingerprint="0" * 64,
        metrics=metrics,
    )
    assert open_bundle(bundle.path).manifest.max_length == 64
    texts = ["this is a good movie", "bad", "the plot of it was very slow and the music awful"]
    loaded = AutoModelForMaskedLM.from_pretrained(bundle.path)
    assert loaded.config.model_type == family
    assert torch.equal(padded_logits(loaded, assembly.tokenizer, texts), padded_logits(assembly.model, assembly.tokenizer, texts))

    rows = {"train": str(write_reviews(tmp_path / "reviews.csv"))}
    schedule = {"peak_lr": 5e-3, "warmup_share": 0.1}
    tree = {"encoder": str(bundle.path), "data": rows, "epochs": 4, "rows_per_step": 8, "max_length": 48, "schedule": schedule}
    finetuning = FinetuneConfig.model_validate(tree)
    planned = plan("finetune", finetuning)
    assembly = assemble(finetuning, planned.location)
    begun, of_bundle = dict(assembly.model.base_model.named_parameters()), dict(loaded.base_model.named_parameters())
    assert [name for name in of_bundle if not torch.equal(begun[name], of_bundle[name])] == []
    assert averages(assembly.model) == (family == "modernbert")
    checkpoint, losses, metrics = trained(finetuning, assembly, tmp_path / "classifier-checkpoint")
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    labelled = read_labelled(finetuning)
    classifier = export_classifier(
        tmp_path / "classifier", Checkpoint.open(checkpoint), finetuning, planned.location, labelled, run_id="run", metrics=metrics
    )
    loaded = AutoModelForSequenceClassification.from_pretrained(classifier.path)
    assert torch.equal(padded_logits(loaded, assembly.tokenizer, texts), padded_logits(assembly.model, assembly.tokenizer, texts))


def test_an_encoder_with_next_sentences_is_exported_for_masked_words(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    data = make_packed(tmp_path / "packed", make_encoder(tmp_path / "tokenizer"))
    tree = {"data": str(data), "new_model": {"layers": 1, "hidden": 32, "positions": 64}, "next_sentence": True, "steps": 4}
    recipe = PretrainConfig.model_validate(tree)
    assembly = assemble(recipe, plan("pretrain", recipe).location)
    checkpoint, _, metrics = trained(recipe, assembly, tmp_path / "checkpoint")
    assert metrics.keys() >= {"next_sentence_accuracy", "validation_loss"}
    bundle = export_encoder(
        tmp_path / "bundle", Checkpoint.open(checkpoint), recipe, "", run_id="run", data_fingerprint="0" * 64, metrics=metrics
    )
    texts = ["this is a good movie", "bad"]
    given = assembly.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = assembly.model.eval()(**given).prediction_logits
    assert torch.equal(padded_logits(AutoModelForMaskedLM.from_pretrained(bundle.path), assembly.tokenizer, texts), wanted)


def test_a_new_model_begins_with_the_loss_of_token_frequencies_which_one_without_has_to_learn(tmp_path: Path) -> None:
    data = make_packed(tmp_path / "packed", make_encoder(tmp_path / "tokenizer"))

    def first_loss(output_bias: str) -> float:
        shape = {"layers": 1, "hidden": 32, "positions": 64, "output_bias": output_bias}
        recipe = PretrainConfig.model_validate({"data": str(data), "new_model": shape, "steps": 1, "rows_per_step": 32})
        return trained(recipe, assemble(recipe, ""), tmp_path / output_bias)[1][0]

    packed = PackedRows.open(data)
    counts = packed.token_counts()
    frequencies = counts[counts > 0] / counts.sum()
    entropy = -(frequencies * np.log(frequencies)).sum()
    assert first_loss("token_frequencies") == pytest.approx(entropy, abs=0.3)
    assert first_loss("zeros") > entropy + 1
    every = np.concatenate([row.ids for row in packed])
    assert counts.tolist() == np.bincount(every[packed.maskable(every)], minlength=len(counts)).tolist()
    assert 0 < packed.token_counts(most_rows=7).sum() < counts.sum()


def make_mpnet(folder: Path) -> Path:
    """An MPNet, whose attention adds relative positions of its own and cannot be told of documents."""
    from transformers import MPNetConfig, MPNetModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = MPNetConfig(vocab_size=write_tokenizer(folder), max_position_embeddings=66, initializer_range=0.3, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        MPNetModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_a_family_that_cannot_do_without_padding_trains_on_padded_rows_or_is_refused(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = make_mpnet(tmp_path / "mpnet")

    def of(attention: AttentionKind | str) -> RunConfig:
        tree = {"encoder": str(encoder), "attention": attention, "rows_per_step": 8, "tokens_per_microbatch": 100, "dropout": 0.0}
        if verb == "pretrain":
            packed = tmp_path / "packed"
            data = packed if packed.exists() else make_packed(packed, encoder)
            return PretrainConfig.model_validate(tree | {"data": str(data), "steps": 6})
        return FinetuneConfig.model_validate(tree | {"data": {"train": str(write_reviews(tmp_path / "rows.csv", 40))}, "max_length": 48})

    recipe = of("auto")
    capsys.readouterr()
    assembly = assemble(recipe, str(encoder), attention="runs")
    assert assembly.attention == "padded"
    said = capsys.readouterr().err
    assert said.count("mpnet: ") == 1
    assert said.endswith("; rows are padded\n")
    _, losses, _ = trained(recipe, assembly, tmp_path / "checkpoint")
    assert np.isfinite(losses).all()
    wanted = trained(of("padded"), assemble(of("padded"), str(encoder), attention="padded"), tmp_path / "asked-for")[1]
    assert losses == wanted
    with pytest.raises(EncoderError, match=r"mpnet: .*set attention=padded"):
        assemble(of("runs"), str(encoder), attention="runs")
