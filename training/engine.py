"""``TorchEngine``: one process, plain PyTorch. The reference that every other engine is compared with, step for step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.checkpoint import MOMENTS, Checkpoint, Fragment, write_fragments
from training.config import OptimiserConfig
from training.loop import Applied
from training.objectives import Batch, ModelObjective
from training.phases import Phases


class WithObjective(nn.Module):
    """A model that answers with its loss or its evaluation counts, so that sharding engines see one forward call."""

    def __init__(self, model: nn.Module, objective: ModelObjective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, batch: Batch, *, evaluating: bool = False) -> torch.Tensor:
        """Summed loss (scalar), or counts (1-D)."""
        return self._objective.counts(self.model, batch) if evaluating else self._objective.loss_sum(self.model, batch)


def parameter_groups(model: nn.Module, config: OptimiserConfig) -> list[dict[str, Any]]:
    """Two groups in a fixed order: matrices and embeddings with weight decay, biases and normalisation weights without."""
    decayed = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim > 1]
    plain = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim <= 1]
    return [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]


def new_optimiser(model: nn.Module, config: OptimiserConfig, kind: type[torch.optim.AdamW] = torch.optim.AdamW) -> torch.optim.AdamW:
    """AdamW at learning rate 0; the loop sets the rate of every step."""
    return kind(parameter_groups(model, config), lr=0.0, fused=True, betas=(config.beta1, config.beta2), eps=config.epsilon)


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch's tensors on ``device``."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


class TorchEngine:
    """The plain engine; see ``loop.Engine`` for the contract."""

    rank = 0
    world_size = 1

    def __init__(
        self,
        model: nn.Module,
        objective: ModelObjective,
        config: OptimiserConfig,
        *,
        device: torch.device | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.phases = Phases()
        self.device = device or torch.device("cpu")
        if checkpoint is not None:
            checkpoint.load_parameters(model)
        self.model = model.to(self.device)
        self._wrapped = WithObjective(self.model, objective)
        self._config = config
        self._optimiser = new_optimiser(self.model, config)
        if checkpoint is not None and checkpoint.has_moments():
            self._load_moments(checkpoint)

    def accumulate(self, batch: Batch, *, scale: float) -> float:
        """Forward and backward of one micro-batch."""
        self._wrapped.train()
        with self.phases("forward"):
            loss = self._wrapped(moved(batch, self.device)) * scale
        with self.phases("backward"):
            loss.backward()
        return float(loss.detach())

    def apply(self, *, learning_rate: float) -> Applied:
        """Clip, step, clear; a gradient that is not finite is skipped."""
        with self.phases("optimiser"):
            limit = self._config.clip_norm or float("inf")
            norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
            is_finite = norm == norm and norm != float("inf")
            if is_finite:
                for group in self._optimiser.param_groups:
                    group["lr"] = learning_rate
                self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)
        return Applied(is_applied=is_finite, grad_norm=norm)

    def total(self, values: Sequence[float]) -> list[float]:
        """One rank: the values."""
        return list(values)

    def evaluate(self, batch: Batch) -> list[float]:
        """Counts of one micro-batch in evaluation mode."""
        self._wrapped.eval()
        with torch.no_grad():
            counts: list[float] = self._wrapped(moved(batch, self.device), evaluating=True).tolist()
        return counts

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name to shape."""
        return {name: tuple(parameter.shape) for name, parameter in self.model.named_parameters()}

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the one rank's fragments: every tensor whole."""
        return write_fragments(folder, 0, self._fragments())

    def _fragments(self) -> Iterator[Fragment]:
        for name, parameter in self.model.named_parameters():
            state = self._optimiser.state.get(parameter, {})
            moments = {kind: state[kind].reshape(-1) for kind in MOMENTS if kind in state}
            yield Fragment(name, 0, {"param": parameter.detach().reshape(-1), **moments})

    def _load_moments(self, checkpoint: Checkpoint) -> None:
        for name, parameter in self.model.named_parameters():
            moments = {kind: checkpoint.read(kind, name).reshape(parameter.shape).to(self.device) for kind in MOMENTS}
            self._optimiser.state[parameter] = {"step": torch.tensor(float(checkpoint.progress.optimiser_steps)), **moments}
