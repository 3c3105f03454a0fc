"""``TorchEngine``: one process, plain PyTorch. The reference that every other engine is compared with, step for step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.checkpoint import Checkpoint, Fragment, write_fragments
from training.hardware import Precision
from training.loop import Applied
from training.loss_scale import LossScale
from training.objectives import Batch, ModelObjective
from training.optimiser_config import OptimiserConfig
from training.optimisers import kept_state, new_optimiser, restore_state, set_rates, state_kinds
from training.phases import Phases

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class WithObjective(nn.Module):
    """A model that answers with its loss or its evaluation counts, so that sharding engines see one forward call.

    Precision is applied here, by autocast over fp32 weights: DeepSpeed switches off an autocast around its forward call, not one inside.
    """

    def __init__(self, model: nn.Module, objective: ModelObjective, precision: Precision = "fp32") -> None:
        super().__init__()
        self.model = model
        self._objective = objective
        self._dtype = _AUTOCAST.get(precision)

    def forward(self, batch: Batch, *, evaluating: bool = False) -> torch.Tensor:
        """Summed loss (scalar), or counts (1-D)."""
        with torch.autocast(next(self.model.parameters()).device.type, dtype=self._dtype, enabled=self._dtype is not None):
            return self._objective.counts(self.model, batch) if evaluating else self._objective.loss_sum(self.model, batch)


def unscale(parameters: Iterable[nn.Parameter], loss_scale: LossScale) -> None:
    """Divide gradients by the factor that the loss was multiplied by."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    torch._foreach_mul_(gradients, 1 / loss_scale.factor)


def clipped(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Scale gradients down to a global norm of ``limit`` (0: never) and return the norm that they had; those below it are not touched."""
    having = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in having if parameter.grad is not None])
    found = float(norm)
    if limit and not found <= limit:  # a norm that is NaN makes every gradient so
        nn.utils.clip_grads_with_norm_(having, limit, norm)
    return found


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


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
        precision: Precision = "fp32",
        loss_scale: LossScale | None = None,
    ) -> None:
        self.phases = Phases()
        self.device = device or torch.device("cpu")
        if checkpoint is not None:
            checkpoint.load_parameters(model)
        self.model = model.to(self.device)
        self._wrapped = WithObjective(self.model, objective, precision)
        self.loss_scale = loss_scale
        self._config = config
        self._optimiser = new_optimiser(self.model, config)
        self._kinds = state_kinds(self.model, self._optimiser)
        if checkpoint is not None and checkpoint.has_moments():
            self._load_moments(checkpoint)

    def accumulate(self, batch: Batch, *, scale: float) -> float:
        """Forward and backward of one micro-batch."""
        self._wrapped.train()
        with self.phases("forward"):
            loss = self._wrapped(moved(batch, self.device)) * scale
        with self.phases("backward"):
            (loss * (self.loss_scale.factor if self.loss_scale else 1.0)).backward()
        return float(loss.detach())

    def apply(self, *, learning_rate: float) -> Applied:
        """Clip, step, clear; a gradient that is not finite is skipped."""
        with self.phases("optimiser"):
            if self.loss_scale:
                unscale(self.model.parameters(), self.loss_scale)
            norm = clipped(self.model.parameters(), self._config.clip_norm)
            is_finite = norm == norm and norm != float("inf")
            if is_finite:
                set_rates(self._optimiser, learning_rate)
                self._optimiser.step()
            self.discard()
        is_rescaled = not is_finite and self.loss_scale is not None and self.loss_scale.can_fall
        self.loss_scale = self.loss_scale.after(is_finite) if self.loss_scale else None
        return Applied(is_applied=is_finite, grad_norm=norm, is_rescaled=is_rescaled)

    def discard(self) -> None:
        """Clear the gradient."""
        self._optimiser.zero_grad(set_to_none=True)

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
        """Write the one rank's fragments."""
        return write_fragments(folder, 0, self.fragments())

    def fragments(self) -> Iterator[Fragment]:
        """Every tensor whole."""
        for name, parameter in self.model.named_parameters():
            kept = kept_state(self._optimiser, parameter, self._kinds.get(name, ()))
            tensors = {"param": parameter, **kept}
            yield Fragment(name, 0, {kind: tensor.detach().reshape(-1) for kind, tensor in tensors.items()})

    def _load_moments(self, checkpoint: Checkpoint) -> None:
        parameters = dict(self.model.named_parameters())
        for name, kinds in self._kinds.items():
            parameter = parameters[name]
            kept = {kind: checkpoint.read(kind, name).reshape(parameter.shape).to(self.device) for kind in kinds}
            restore_state(self._optimiser, parameter, kept, checkpoint.progress.optimiser_steps)
