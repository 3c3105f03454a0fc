"""Optimisers and their parameter groups, the same for every engine. AdamW and fused kernels are torch's, the others pytorch-optimizer's.

A group is a torch parameter group with two keys more: ``multiplier`` (its learning rate as a share of the schedule's) and
``state_kinds`` (the tensors that the optimiser keeps of each parameter, which checkpoints hold). Which engine can carry which optimiser
is decided earlier, by ``optimiser_config.carried_by``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from training.checkpoint import MOMENTS
from training.depth import Freeze, check_layers, count_layers, depth_of, frozen_depths, multiplier
from training.optimiser_config import OptimiserConfig

Kind = type[torch.optim.Optimizer]
# Roles within a depth, in the order of their groups.
_MATRIX, _DECAYED, _PLAIN = range(3)
_MUON_STATE = ("momentum_buffer",)


def freeze(model: nn.Module, how: Freeze) -> None:
    """Let some parameters learn no more; before groups are made and before ZeRO divides the model.

    Raises:
        ConfigError: The encoder has not as many layers as are to be frozen, or none that are recognised.
    """
    names = [name for name, _ in model.named_parameters()]
    layers = count_layers(names)
    depths = frozen_depths(how, layers)
    for name, parameter in model.named_parameters():
        if depths and depth_of(name, layers) in depths:
            parameter.requires_grad_(False)


def parameter_groups(model: nn.Module, config: OptimiserConfig) -> list[dict[str, Any]]:
    """Groups of what learns, in a fixed order: from the embeddings up when learning rates differ by depth, in each depth matrices and
    embeddings (with weight decay) before biases and normalisation weights (without). None is empty.

    Raises:
        ConfigError: Learning rates are to differ by depth, and no layers are recognised.
    """
    layers = count_layers(name for name, _ in model.named_parameters())
    check_layers(layers, config.layer_decay)
    by_place: dict[tuple[int, int], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = depth_of(name, layers)
            place = (depth if config.layer_decay < 1 else layers + 1, _role(parameter, config, is_in_layer=0 < depth <= layers))
            by_place.setdefault(place, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if role == _PLAIN else config.weight_decay,
            "multiplier": multiplier(depth, layers, config.layer_decay),
            "state_kinds": _MUON_STATE if role == _MATRIX else MOMENTS,
            **_own_keys(role, config),
        }
        for (depth, role), parameters in sorted(by_place.items())
    ]


def _role(parameter: nn.Parameter, config: OptimiserConfig, *, is_in_layer: bool) -> int:
    if parameter.ndim <= 1:
        return _PLAIN
    return _MATRIX if config.kind == "muon" and is_in_layer and parameter.ndim == 2 else _DECAYED


def _own_keys(role: int, config: OptimiserConfig) -> dict[str, Any]:
    """What only one optimiser reads off a group."""
    if config.kind == "lamb":
        # No trust ratio for biases and normalisation weights, as BERT's own LAMB (You et al. 2020): it would be 0 for a bias near 0.
        return {"adam": role == _PLAIN}
    if config.kind == "muon":
        return {"use_muon": True} if role == _MATRIX else {"use_muon": False, "betas": (config.beta1, config.beta2), "eps": config.epsilon}
    return {}


def new_optimiser(model: nn.Module, config: OptimiserConfig, wrap: Callable[[Kind], Kind] = lambda kind: kind) -> torch.optim.Optimizer:
    """The optimiser at learning rate 0; ``set_rates`` sets that of every step.

    Args:
        model: Its parameters that learn are stepped.
        config: The recipe's.
        wrap: Makes a subclass of the optimiser's class, for an engine that needs one.
    """
    groups = parameter_groups(model, config)
    adam = {"lr": 0.0, "betas": (config.beta1, config.beta2), "eps": config.epsilon}
    build = cast(Callable[[Kind], Callable[..., torch.optim.Optimizer]], wrap)
    match config.kind:
        case "adamw":
            return build(torch.optim.AdamW)(groups, fused=True, **adam)
        case "lamb":
            from pytorch_optimizer import Lamb

            # Weight decay within the trust ratio and no bias correction, as in the paper's version 3 (You et al. 2020, algorithm 2).
            return build(Lamb)(groups, weight_decouple=False, adam_debias=True, **adam)
        case "stable_adamw":
            from pytorch_optimizer import StableAdamW

            return build(StableAdamW)(groups, **adam)
        case "muon":
            from pytorch_optimizer import Muon

            # The shape factor of Liu et al. 2025: updates as large as AdamW's, so that one learning rate serves all groups.
            groups = [{"lr": 0.0, **group} for group in groups]
            return build(Muon)(groups, lr=0.0, momentum=config.momentum, use_adjusted_lr=True)


def state_kinds(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, tuple[str, ...]]:
    """Name of each parameter that learns to the tensors that the optimiser keeps of it. Ask before ZeRO puts its own into the groups."""
    by_id = {id(parameter): tuple(group["state_kinds"]) for group in optimiser.param_groups for parameter in group["params"]}
    return {name: by_id[id(parameter)] for name, parameter in model.named_parameters() if id(parameter) in by_id}


def set_rates(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give each group its share of the schedule's learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * group["multiplier"]


def kept_state(optimiser: torch.optim.Optimizer, stepped: torch.Tensor, kinds: Sequence[str]) -> dict[str, torch.Tensor]:
    """What the optimiser keeps of a tensor that it steps, each like it; empty before the first step. A tensor that had no gradient yet
    counts as one whose state is 0."""
    if not optimiser.state:
        return {}
    state = optimiser.state.get(stepped, {})
    return {kind: state[kind] if kind in state else torch.zeros_like(stepped, dtype=torch.float32) for kind in kinds}


def restore_state(optimiser: torch.optim.Optimizer, stepped: torch.Tensor, kept: Mapping[str, torch.Tensor], steps: int) -> None:
    """Give an optimiser back what it kept of a tensor after ``steps`` applied steps."""
    state: dict[str, Any] = dict(kept)
    if isinstance(optimiser, torch.optim.AdamW):
        state["step"] = torch.tensor(float(steps), device=stepped.device)
    else:
        # pytorch-optimizer counts by group, and StableAdamW asks for what only 16-bit parameters have.
        state["kahan_comp"] = None
        for group in optimiser.param_groups:
            group["step"] = steps
    optimiser.state[stepped] = state
