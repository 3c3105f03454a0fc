"""The output bias of an untrained head, set to what is known before training: how often each token, or each class, occurs.

Otherwise the first hundreds of steps are spent on learning that. Meister et al., "A Natural Bias for Language Generation Models", ACL 2023;
for rare classes, Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4.1.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def log_frequencies(counts: npt.NDArray[np.int64], outputs: int) -> npt.NDArray[np.float32]:
    """(V',) natural logarithms of token frequencies, one added to every count, so that no token is impossible.

    Args:
        counts: (V,) how often each token occurs.
        outputs: V' ≥ V, what the model tells apart; tokens beyond the V-th do not occur.
    """
    smoothed = np.ones(outputs)
    smoothed[: len(counts)] += counts
    found: npt.NDArray[np.float32] = np.log(smoothed / smoothed.sum()).astype(np.float32)
    return found


def answer_with_frequencies(model: Any, counts: npt.NDArray[np.int64]) -> None:
    """Let an untrained ``model`` answer every mask with about the tokens' frequencies; one without an output bias is left as it is."""
    bias = model.get_output_embeddings().bias
    if bias is not None:
        with torch.no_grad():
            bias.copy_(torch.from_numpy(log_frequencies(counts, len(bias))))


def begin_with(classifier: Any, bias_C: npt.NDArray[np.float32], fresh: Set[str]) -> None:
    """Give a sequence classifier's head its output bias, if it has one and that is among the ``fresh`` parameters."""
    name, head = [(name, part) for name, part in classifier.named_modules() if isinstance(part, torch.nn.Linear)][-1]
    if head.bias is not None and head.out_features == len(bias_C) and f"{name}.bias" in fresh:
        with torch.no_grad():
            head.bias.copy_(torch.from_numpy(bias_C))
