"""Optimisers do what their papers say, groups are what the recipe says, and a checkpoint gives every optimiser back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from foundation.errors import RunError
from tests.support.tiny import make_encoder
from training.checkpoint import Checkpoint, Progress, write_manifest
from training.config import FinetuneConfig
from training.engine import TorchEngine
from training.optimiser_config import OptimiserConfig, OptimiserKind, carried_by
from training.optimisers import freeze, new_optimiser, parameter_groups, set_rates

KINDS: tuple[OptimiserKind, ...] = ("adamw", "lamb", "stable_adamw", "muon")


@pytest.fixture
def model(tmp_path: Path) -> Any:
    from encoder.loading import new_classifier

    return new_classifier(str(make_encoder(tmp_path / "encoder")), ["negative", "positive"], seed=0, dropout=0.0)


def names_in(model: nn.Module, groups: list[dict[str, Any]]) -> list[list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in groups]


def test_matrices_and_embeddings_decay_and_nothing_else_does(model: nn.Module) -> None:
    groups = parameter_groups(model, OptimiserConfig(weight_decay=0.3))
    decayed, plain = names_in(model, groups)
    assert [(group["weight_decay"], group["multiplier"]) for group in groups] == [(0.3, 1.0), (0.0, 1.0)]
    assert all("LayerNorm" not in name and name.endswith("weight") for name in decayed)
    assert all("LayerNorm" in name or name.endswith("bias") for name in plain)
    assert len(decayed) + len(plain) == len(list(model.parameters()))


def test_learning_rates_fall_from_the_head_to_the_embeddings(model: nn.Module) -> None:
    groups = parameter_groups(model, OptimiserConfig(layer_decay=0.5, weight_decay=0.3))
    assert [group["multiplier"] for group in groups] == [0.125, 0.125, 0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0] * 4
    names = names_in(model, groups)
    for places, parts in zip(("embeddings.", ".layer.0.", ".layer.1.", ""), zip(names[::2], names[1::2], strict=True), strict=True):
        assert all(places in name for part in parts for name in part)
    optimiser = new_optimiser(model, OptimiserConfig(layer_decay=0.5))
    set_rates(optimiser, 0.4)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.05, 0.05, 0.1, 0.1, 0.2, 0.2, 0.4, 0.4])


def test_layer_decay_needs_layers_that_are_recognised() -> None:
    from foundation.errors import ConfigError

    with pytest.raises(ConfigError, match=r"optimiser\.layer_decay is 0\.5, but no layers are recognised"):
        parameter_groups(nn.Linear(2, 2), OptimiserConfig(layer_decay=0.5))


def test_muon_has_the_layers_matrices_and_adamw_the_rest(model: nn.Module) -> None:
    groups = parameter_groups(model, OptimiserConfig(kind="muon"))
    matrices, decayed, plain = names_in(model, groups)
    assert [group["use_muon"] for group in groups] == [True, False, False]
    assert all(".layer." in name and name.endswith("weight") for name in matrices)
    assert all(".layer." not in name for name in decayed)
    assert len(matrices) == 2 * 6
    assert all(name.endswith("bias") or "LayerNorm" in name for name in plain)


@pytest.mark.parametrize("how", ["none", "embeddings", 1, "encoder"])
def test_frozen_parameters_are_in_no_group(how: Any, model: nn.Module) -> None:
    freeze(model, how)
    still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    frozen = {"none": (), "embeddings": ("embeddings.",), 1: ("embeddings.", ".layer.0."), "encoder": ("embeddings.", ".layer.")}[how]
    assert still == {name for name, _ in model.named_parameters() if any(part in name for part in frozen)}
    grouped = {name for names in names_in(model, parameter_groups(model, OptimiserConfig())) for name in names}
    assert grouped | still == {name for name, _ in model.named_parameters()}
    assert not grouped & still
    assert {"classifier.weight", "bert.pooler.dense.weight"} <= grouped


# What each paper says of one tensor, at step t (from 1), with moments updated already.
def lamb(weight: torch.Tensor, m: torch.Tensor, v: torch.Tensor, config: OptimiserConfig, rate: float) -> torch.Tensor:
    update = m / (v.sqrt() + config.epsilon) + config.weight_decay * weight
    return weight - rate * weight.norm().clamp(max=10) / update.norm() * update


def adamw(weight: torch.Tensor, m: torch.Tensor, v: torch.Tensor, config: OptimiserConfig, rate: float, t: int) -> torch.Tensor:
    update = m / (1 - config.beta1**t) / ((v / (1 - config.beta2**t)).sqrt() + config.epsilon)
    return weight - rate * config.weight_decay * weight - rate * update


def stepped(kind: OptimiserKind, config: dict[str, Any], rate: float, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """A matrix after each step."""
    torch.manual_seed(0)
    holder = nn.Module()
    holder.layer = nn.ModuleList([nn.Linear(6, 4, bias=False)])  # its name makes it a layer's matrix
    optimiser = new_optimiser(holder, OptimiserConfig(kind=kind, **config))
    weight, found = holder.layer[0].weight, []
    for gradient in gradients:
        weight.grad = gradient.clone()
        set_rates(optimiser, rate)
        optimiser.step()
        found.append(weight.detach().clone())
    return found


@pytest.fixture
def gradients() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 6, generator=generator) * scale for scale in (1.0, 0.1, 20.0)]


def initial() -> torch.Tensor:
    torch.manual_seed(0)
    return nn.Linear(6, 4, bias=False).weight.detach().clone()


def test_lamb_scales_each_tensors_update_to_its_own_norm(gradients: list[torch.Tensor]) -> None:
    config = OptimiserConfig(kind="lamb", weight_decay=0.1)
    weight, m, v = initial(), torch.zeros(4, 6), torch.zeros(4, 6)
    for gradient, found in zip(gradients, stepped("lamb", {"weight_decay": 0.1}, 0.02, gradients), strict=True):
        m, v = config.beta1 * m + (1 - config.beta1) * gradient, config.beta2 * v + (1 - config.beta2) * gradient**2
        expected = lamb(weight, m, v, config, 0.02)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert (found - weight).norm() == pytest.approx(0.02 * float(weight.norm()), rel=1e-4)
        weight = expected


def test_stable_adamw_is_adamw_with_a_rate_that_falls_where_gradients_surprise_it(gradients: list[torch.Tensor]) -> None:
    config = OptimiserConfig(kind="stable_adamw", weight_decay=0.1)
    weight, m, v = initial(), torch.zeros(4, 6), torch.zeros(4, 6)
    rates = []
    for t, (gradient, found) in enumerate(zip(gradients, stepped("stable_adamw", {"weight_decay": 0.1}, 0.02, gradients), strict=True), 1):
        m, v = config.beta1 * m + (1 - config.beta1) * gradient, config.beta2 * v + (1 - config.beta2) * gradient**2
        surprise = (gradient**2 / (v / (1 - config.beta2**t)).clamp(min=config.epsilon**2)).mean().sqrt()
        rates.append(0.02 / max(1.0, float(surprise)))
        expected = adamw(weight, m, v, config, rates[-1], t)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        weight = expected
    assert rates[:2] == [pytest.approx(0.02), 0.02]
    assert rates[2] < 0.015  # the third gradient is twenty times the first


def test_muon_steps_as_torchs_own_does(gradients: list[torch.Tensor]) -> None:
    weight = nn.Parameter(initial())
    peer = torch.optim.Muon([weight], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for gradient, found in zip(gradients, stepped("muon", {"weight_decay": 0.1}, 0.02, gradients), strict=True):
        weight.grad = gradient.clone()
        peer.step()
        torch.testing.assert_close(found, weight.detach(), rtol=1e-2, atol=1e-3)  # bfloat16 inside


class Squares:
    """A stand-in objective: the loss is the model's output, squared and summed."""

    def loss_sum(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return model(**batch).logits.pow(2).sum()  # type: ignore[no-any-return]

    def counts(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.loss_sum(model, batch).reshape(1)


def batch(step: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(step))}


def advance(engine: TorchEngine, steps: range) -> dict[str, torch.Tensor]:
    for step in steps:
        engine.accumulate(batch(step), scale=0.1)
        engine.apply(learning_rate=1e-2)
    return {name: parameter.detach().clone() for name, parameter in engine.model.named_parameters()}


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., TorchEngine]:
    from encoder.loading import new_classifier

    encoder = make_encoder(tmp_path / "tiny")

    def make(how: Any = "none", checkpoint: Path | None = None, **config: Any) -> TorchEngine:
        fresh = new_classifier(str(encoder), ["negative", "positive"], seed=0, dropout=0.0)
        freeze(fresh, how)
        opened = Checkpoint.open(checkpoint) if checkpoint else None
        return TorchEngine(fresh, Squares(), OptimiserConfig(**config), checkpoint=opened)

    return make


def saved(engine: TorchEngine, folder: Path, steps: int) -> Path:
    write_manifest(folder, Progress(steps, steps), engine.save(folder), engine.shapes(), {"engine": "torch"})
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["none", 1])
def test_a_resumed_optimiser_goes_on_bit_for_bit(kind: str, how: Any, build: Callable[..., TorchEngine], tmp_path: Path) -> None:
    config = {"kind": kind, "layer_decay": 0.7}
    whole = advance(build(how, **config), range(6))
    begun = build(how, **config)
    advance(begun, range(3))
    resumed = advance(build(how, saved(begun, tmp_path / "half", 3), **config), range(3, 6))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    learnt = build(how, **config).model.state_dict()
    assert {name for name in whole if torch.equal(whole[name], learnt[name])} == {
        name for name, parameter in begun.model.named_parameters() if not parameter.requires_grad
    }


def test_state_of_another_optimiser_or_of_a_frozen_parameter_is_refused(build: Callable[..., TorchEngine], tmp_path: Path) -> None:
    adam, frozen = build(), build("embeddings")
    for engine in (adam, frozen):
        advance(engine, range(1))
    with pytest.raises(RunError, match=r"holds no momentum_buffer of bert.encoder.layer.0.* written with another optimiser"):
        build(checkpoint=saved(adam, tmp_path / "adam", 1), kind="muon")
    with pytest.raises(RunError, match=r"holds no exp_avg of bert.embeddings.* while this parameter was frozen"):
        build(checkpoint=saved(frozen, tmp_path / "frozen", 1))
    build("encoder", checkpoint=tmp_path / "adam")  # state of what is frozen now is left where it is


def test_only_engines_that_keep_tensors_whole_carry_other_optimisers_than_adamw() -> None:
    for kind in KINDS:
        assert carried_by(kind, "torch", 3) is None
        assert carried_by(kind, "deepspeed", 0) is None
        for stage in (1, 2, 3):
            assert (carried_by(kind, "deepspeed", stage) is None) == (kind == "adamw")


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_recipe_whose_engine_cannot_carry_its_optimiser_is_no_recipe(kind: str) -> None:
    tree = {"data": {"train": "x"}, "optimiser": {"kind": kind}, "workers": {"count": 2}}
    with pytest.raises(
        ValidationError, match=rf"optimiser\.kind is {kind}, .* sharding\.engine is deepspeed with zero_stage 2.*use sharding"
    ):
        FinetuneConfig.model_validate(tree)
    FinetuneConfig.model_validate(tree | {"sharding": {"zero_stage": 0}})
    FinetuneConfig.model_validate(tree | {"workers": {"count": 1}})
