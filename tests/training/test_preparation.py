"""What precision, loss scaling, activation checkpointing and compilation may change of a step, and what not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from foundation.errors import ConfigError
from tests.support.gang import Task, parts, run_gangs, run_task
from tests.support.steps import one_thread
from tests.support.tiny import make_encoder
from training.assembly import loop_arguments
from training.checkpoint import Checkpoint, Progress, write_manifest
from training.config import FinetuneConfig
from training.engine import TorchEngine
from training.guard import GuardError, Rescale
from training.hardware import Hardware, decide
from training.loop import train
from training.loss_scale import GROWTH_STEPS, LossScale
from training.preparation import checkpoint_activations, compile_encoder, first_loss_scale

pytestmark = pytest.mark.slow
STEPS = 12
NEAR = 0.05
"""Share by which losses of 16 bits may differ from fp32, at a rate that does not exaggerate every rounding."""
CALM = {"schedule": {"peak_lr": 3e-4}}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def task(encoder: Path, *, engine: str = "torch", stage: int = 2, recipe: dict[str, Any] | None = None, **more: Any) -> Task:
    tree = {
        "data": {"train": "unused"},
        "rows_per_step": 10,
        "rows_per_microbatch": 3,
        "schedule": {"peak_lr": 3e-3},
        "optimiser": {"clip_norm": 0.5},
        "workers": {"count": 1 if engine == "torch" else 2},
        "sharding": {"engine": engine, "zero_stage": stage},
    }
    return {"verb": "finetune", "encoder": str(encoder), "steps": STEPS, "recipe": tree | (recipe or {})} | more


FAMILIES = ("bert", "roberta", "distilbert", "modernbert")


def family(kind: str) -> Any:
    """A tiny classifier of a model family, untrained, with dropout."""
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    dropout = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    config: Any
    match kind:
        case "bert":
            config = transformers.BertConfig(**sizes, **dropout)
        case "roberta":
            config = transformers.RobertaConfig(**sizes, **dropout)
        case "distilbert":
            config = transformers.DistilBertConfig(vocab_size=60, dim=32, n_layers=2, n_heads=2, hidden_dim=64, dropout=0.2)
        case _:
            config = transformers.ModernBertConfig(**sizes, attention_dropout=0.2, mlp_dropout=0.2, pad_token_id=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")


def gradients(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and gradients of one batch in training, its noise from a fixed seed."""
    model.train()
    torch.manual_seed(7)
    logits = model(input_ids=torch.arange(2, 50).reshape(4, 12), attention_mask=torch.ones(4, 12, dtype=torch.long)).logits
    logits.square().sum().backward()
    return logits.detach(), {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("kind", FAMILIES)
def test_activation_checkpointing_changes_neither_logits_nor_gradients_nor_noise(kind: str) -> None:
    model = family(kind)
    checkpoint_activations(model)
    plain_logits, plain = gradients(family(kind))
    logits, found = gradients(model)
    assert torch.equal(logits, plain_logits)
    assert found.keys() == plain.keys()
    assert all(torch.allclose(found[name], plain[name], rtol=0, atol=1e-6) for name in plain)


@pytest.mark.parametrize("kind", FAMILIES)
def test_activation_checkpointing_computes_each_layer_again_in_the_backward_pass(kind: str) -> None:
    model = family(kind)
    first = next(module for name, module in model.base_model.named_modules() if isinstance(module, torch.nn.Linear) and ".0." in name)
    calls: list[str] = []
    first.register_forward_hook(lambda *_: calls.append("computed"))
    checkpoint_activations(model)
    gradients(model)
    assert calls == ["computed"] * 2


def test_a_family_that_cannot_checkpoint_activations_is_refused_by_the_key() -> None:
    model = family("bert")
    model.supports_gradient_checkpointing = False
    with pytest.raises(ConfigError, match="activation_checkpointing: models of type bert cannot"):
        checkpoint_activations(model)


def test_bf16_trains_near_fp32_over_fp32_weights(encoder: Path, tmp_path: Path) -> None:
    plain = run_task(task(encoder, recipe=CALM))
    found = run_task(task(encoder, recipe={**CALM, "precision": "bf16"}, save_to=str(tmp_path / "saved")))
    assert found["losses"] != plain["losses"]
    assert found["losses"] == pytest.approx(plain["losses"], rel=NEAR)
    assert sum(found["losses"][-4:]) < sum(found["losses"][:4])
    saved = Checkpoint.open(tmp_path / "saved").read("param", "classifier.weight")
    assert (saved != saved.bfloat16().float()).any(), "weights were rounded to bf16"


def test_fp16_trains_near_fp32_with_losses_scaled(encoder: Path) -> None:
    # A recipe refuses fp16 on CPUs; PyTorch computes it there, slowly, so the engine's own path can be tested.

    recipe, model, objective = parts(task(encoder, recipe=CALM))
    engine = TorchEngine(model, objective, recipe.optimiser, precision="fp16", loss_scale=LossScale())
    losses = [report.loss for report in train(engine, objective, steps=STEPS, **loop_arguments(recipe, STEPS, "runs"))]
    assert losses == pytest.approx(run_task(task(encoder, recipe=CALM))["losses"], rel=NEAR)
    assert engine.loss_scale == LossScale(finite_steps=STEPS)


def test_scaling_losses_by_powers_of_two_changes_no_bit_of_a_run(encoder: Path) -> None:
    plain, scaled = run_task(task(encoder)), run_task(task(encoder, loss_scale=[1024.0, 0]))
    assert (scaled["losses"], scaled["norms"]) == (plain["losses"], plain["norms"])
    assert scaled["loss_scale"] == [1024.0, STEPS]


def test_an_overflow_halves_the_scale_skips_the_step_and_keeps_the_weights(encoder: Path, tmp_path: Path) -> None:
    found = run_task(task(encoder, loss_scale=[1024.0, 3], poisoned=4, scratch=str(tmp_path / "scratch")))
    assert found["is_applied"] == [step != 4 for step in range(STEPS)]
    assert found["kept"]
    assert found["loss_scale"] == [512.0, STEPS - 5]


def test_a_scale_that_begins_too_high_falls_to_what_fits_without_a_word_of_the_guard(encoder: Path) -> None:
    recipe, model, objective = parts(task(encoder, recipe={**CALM, "guard": {"stop_after": 1}}))
    engine = TorchEngine(model, objective, recipe.optimiser, precision="fp16", loss_scale=LossScale(2.0**26))
    reports = list(train(engine, objective, steps=STEPS, **loop_arguments(recipe, STEPS, "runs")))
    rescaled = [isinstance(report.decision, Rescale) for report in reports]
    # Gradients differ from step to step, so a larger one later may be one halving more.
    assert all(rescaled[:4])
    assert not all(rescaled[4:])
    assert [report.is_applied for report in reports] == [not one for one in rescaled]
    assert reports[-1].optimiser_steps == STEPS - sum(rescaled)
    assert {report.memory.skipped_in_a_row for report in reports} == {0}
    assert engine.loss_scale == LossScale(2.0 ** (26 - sum(rescaled)), rescaled[::-1].index(True))


def test_a_gradient_that_is_not_finite_at_the_least_scale_is_the_guards_affair(encoder: Path, tmp_path: Path) -> None:
    overflowing = task(encoder, recipe={"guard": {"stop_after": 1}}, loss_scale=[1.0, 0], poisoned=4, scratch=str(tmp_path / "scratch"))
    with pytest.raises(GuardError, match="step 4: the gradient norm is"):
        run_task(overflowing)


def test_the_scale_is_a_function_of_what_became_of_each_step() -> None:
    scale = LossScale(1024.0)
    assert scale.after(False) == LossScale(512.0)
    assert scale.after(True) == LossScale(1024.0, 1)
    assert replace(scale, finite_steps=GROWTH_STEPS - 1).after(True) == LossScale(2048.0)
    assert replace(scale, finite_steps=9).after(False).finite_steps == 0
    assert LossScale(1.0).after(False).factor == 1.0
    assert LossScale(2.0**24, GROWTH_STEPS - 1).after(True).factor == 2.0**24


def test_a_checkpoint_carries_the_scale_and_one_without_begins_anew(tmp_path: Path) -> None:
    t4 = Hardware(gpus_per_node=1, capability=(7, 5))
    on_gpu = FinetuneConfig.model_validate({"data": {"train": "x"}, "workers": {"gpus_each": 1}})
    decisions = decide(t4, on_gpu)
    for name, scale in (("with", LossScale(4.0, 2)), ("without", None)):
        write_manifest(make_folder(tmp_path / name), Progress(3, 3, loss_scale=scale), {}, {}, {})
        found = Checkpoint.open(tmp_path / name)
        assert found.progress.loss_scale == scale
        assert first_loss_scale(decisions, found) == scale or LossScale()
    assert first_loss_scale(decisions, None) == LossScale()
    assert first_loss_scale(decide(Hardware(), on_gpu.model_copy(update={"precision": "fp32"})), None) is None


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_encoder_is_compiled_in_place_and_its_parameters_keep_their_names(kind: str) -> None:
    model = family(kind)
    names = list(model.state_dict())
    compile_encoder(model)
    assert model.base_model._compiled_call_impl is not None
    assert list(model.state_dict()) == names
    assert [name for name, _ in model.named_parameters() if "_orig_mod" in name] == []


def test_a_compiled_encoder_trains_as_the_plain_one_does(encoder: Path) -> None:
    plain, found = run_task(task(encoder)), run_task(task(encoder, recipe={"compile": "on"}))
    assert found["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    assert found["norms"] == pytest.approx(plain["norms"], rel=1e-4)
    assert found["metrics"] == pytest.approx(plain["metrics"], rel=1e-4)


STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def sharded(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("gangs")
    tasks: dict[str, Task] = {}
    for stage in STAGES:
        at: dict[str, Any] = {"engine": "deepspeed", "stage": stage}
        tasks[f"bf16-{stage}"] = task(encoder, recipe={**CALM, "precision": "bf16"}, **at)
        tasks[f"checkpointed-{stage}"] = task(encoder, recipe={"activation_checkpointing": True}, **at)
        # The overflow ends the run if it is counted.
        scratch, patience = str(folder / f"scratch-{stage}"), {"guard": {"stop_after": 1}}
        tasks[f"scaled-{stage}"] = task(encoder, recipe=patience, loss_scale=[1024.0, 3], poisoned=4, scratch=scratch, **at)
    return run_gangs({2: tasks}, folder)


@pytest.mark.parametrize("stage", STAGES)
def test_a_sharded_engine_trains_in_bf16_near_fp32(stage: int, sharded: dict[str, dict[str, Any]], encoder: Path) -> None:
    plain, found = run_task(task(encoder, recipe=CALM)), sharded[f"bf16-{stage}"]
    assert found["losses"] != pytest.approx(plain["losses"], rel=1e-5), "the autocast inside the model was switched off"
    assert found["losses"] == pytest.approx(plain["losses"], rel=NEAR)


@pytest.mark.parametrize("stage", STAGES)
def test_a_sharded_engine_checkpoints_activations_without_other_numbers(
    stage: int, sharded: dict[str, dict[str, Any]], encoder: Path
) -> None:
    plain, found = run_task(task(encoder)), sharded[f"checkpointed-{stage}"]
    assert found["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    assert found["norms"] == pytest.approx(plain["norms"], rel=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_a_sharded_engine_scales_losses_as_the_reference_does(
    stage: int, sharded: dict[str, dict[str, Any]], encoder: Path, tmp_path: Path
) -> None:
    plain = run_task(task(encoder, poisoned=4, scratch=str(tmp_path / "scratch")))
    found = sharded[f"scaled-{stage}"]
    assert found["is_applied"] == plain["is_applied"]
    assert found["kept"]
    assert found["losses"][:4] + found["losses"][5:] == pytest.approx(plain["losses"][:4] + plain["losses"][5:], rel=1e-5)
    assert found["norms"][:4] + found["norms"][5:] == pytest.approx(plain["norms"][:4] + plain["norms"][5:], rel=1e-4)
    assert found["loss_scale"] == [512.0, STEPS - 5]


def test_a_compiled_encoder_is_not_compiled_again_for_other_documents() -> None:
    from torch._dynamo.utils import counters

    from encoder.padding_free import class_logits, documents, prepare

    torch._dynamo.reset()
    model = prepare(family("bert"))
    compile_encoder(model)
    graphs = []
    for seed in range(6):
        sizes = np.random.default_rng(seed).integers(2, 30, 3 + seed)
        found, _ = documents(np.full(sizes.sum(), 7), sizes, "runs")
        class_logits(model, found).sum().backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs[-1] == graphs[2]
