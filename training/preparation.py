"""What is done to a model before an engine wraps it, as ``hardware.py`` decided: activation checkpointing and compilation. Names stay."""

from __future__ import annotations

from typing import Any

from encoder import attention
from foundation.errors import ConfigError
from training.checkpoint import Checkpoint
from training.config import RunConfig
from training.hardware import Decisions
from training.loss_scale import LossScale


def prepare(model: Any, recipe: RunConfig, decisions: Decisions) -> None:
    """Set up checkpointing and compilation in place.

    Raises:
        ConfigError: The model's family cannot checkpoint activations.
    """
    if recipe.activation_checkpointing:
        checkpoint_activations(model)
    if decisions.compile.value:
        compile_encoder(model)


def checkpoint_activations(model: Any) -> None:
    """Recompute each layer in the backward pass. Dropout draws there what it drew before, since torch keeps the generator's state.

    Raises:
        ConfigError: The model's family cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise ConfigError(f"activation_checkpointing: models of type {model.config.model_type} cannot; set activation_checkpointing=false")
    # The reentrant form would need inputs that require gradients, which token ids do not.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def compile_encoder(model: Any) -> None:
    """Compile the encoder at its first call, for rows of any number and length; in place, so that parameters keep their names."""
    attention.keep_out_of_compilation()
    model.base_model.compile(dynamic=True)


def first_loss_scale(decisions: Decisions, checkpoint: Checkpoint | None) -> LossScale | None:
    """The scale to begin with: the checkpoint's, a new one, or None where none is needed."""
    if not decisions.loss_scaling.value:
        return None
    return (checkpoint.progress.loss_scale if checkpoint else None) or LossScale()
