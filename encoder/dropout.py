"""Dropout for CPUs: PyTorch's own draws one Bernoulli number an element, which is a twelfth of a fine-tuning step; here four elements share
one draw of 64 bits. On other devices it is PyTorch's. Noise comes from torch's global generator, as ever."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

_LEVELS = 2**16


class Dropout(nn.Dropout):
    """``nn.Dropout`` whose share is rounded to a multiple of 1/65,536; what is kept is scaled by that share exactly."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Zero a share of the elements in training and scale up the others."""
        return dropped(input, self.p) if self.training else input


def dropped(values: torch.Tensor, share: float) -> torch.Tensor:
    """``values`` with that share of its elements zeroed and the others scaled up."""
    if share == 0.0 or values.device.type != "cpu":
        return nn.functional.dropout(values, share)
    return values * noise(values.numel(), share, values.dtype).view(values.shape)  # one product forward and one backward


def noise(count: int, share: float, dtype: torch.dtype) -> torch.Tensor:
    """Factors (count,) on the CPU: that share of them 0, drawn one by one, the others what makes up for it."""
    zeroed = round(share * _LEVELS)
    if zeroed >= _LEVELS:
        return torch.zeros(count, dtype=dtype)
    # A generator of NumPy's, seeded by torch's: it draws twice as fast.
    seed = int(torch.randint(2**62, ()))
    words = np.random.SFC64(seed).random_raw((count + 3) // 4)
    is_kept = torch.from_numpy(words.view(np.uint16)[:count] >= zeroed)
    # Bytes become floats quickly, booleans do not.
    return is_kept.view(torch.int8).to(dtype).mul_(_LEVELS / (_LEVELS - zeroed))


def quicken(model: nn.Module) -> None:
    """Replace every ``nn.Dropout`` of a model; names of parameters stay, for dropout has none."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
