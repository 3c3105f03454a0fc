"""Dropout for CPUs: PyTorch's own draws one Bernoulli number an element, which is a twelfth of a fine-tuning step; here four elements share
one draw of 64 bits. On other devices it is PyTorch's. Noise comes from torch's global generator, as ever."""

from __future__ import annotations

import torch
from torch import nn

_LEVELS = 2**16
_LOWEST, _WORD_LOWEST = -(2**15), -(2**63)


class Dropout(nn.Dropout):
    """``nn.Dropout`` whose share is rounded to a multiple of 1/65,536; what is kept is scaled by that share exactly."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Zero a share of the elements in training and scale up the others."""
        return dropped(input, self.p) if self.training else input


def dropped(values: torch.Tensor, share: float) -> torch.Tensor:
    """``values`` with that share of its elements zeroed and the others scaled up."""
    if share == 0.0 or values.device.type != "cpu":
        return nn.functional.dropout(values, share)
    zeroed = round(share * _LEVELS)
    if zeroed >= _LEVELS:
        return torch.zeros_like(values)
    words = torch.empty((values.numel() + 3) // 4, dtype=torch.int64).random_(_WORD_LOWEST, None)
    is_kept = words.view(torch.int16)[: values.numel()].view(values.shape) >= _LOWEST + zeroed
    # One product forward and one backward.
    return values * is_kept.to(values.dtype).mul_(_LEVELS / (_LEVELS - zeroed))


def quicken(model: nn.Module) -> None:
    """Replace every ``nn.Dropout`` of a model; names of parameters stay, for dropout has none."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
