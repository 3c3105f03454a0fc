"""Rows of token ids to padded tensors, for models as transformers serves them. Shapes: B rows, T tokens. Training has no padding:
``padding_free.py``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

Ids = Sequence[int] | npt.NDArray[np.int32]

# Filled by NumPy, in the calling thread alone: torch would start threads of its own beside those that compute.


def pad(rows: Sequence[Ids], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows on the right to the longest of them.

    Returns:
        ids_BT (int64) and mask_BT (int64, 1 where there is a token).
    """
    lengths_B = np.array([len(row) for row in rows], dtype=np.int64)
    is_token_BT = _is_token(lengths_B, int(lengths_B.max()))
    ids_BT = np.full(is_token_BT.shape, pad_id, dtype=np.int64)
    ids_BT[is_token_BT] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    return torch.from_numpy(ids_BT), torch.from_numpy(is_token_BT.astype(np.int64))


def _is_token(lengths_B: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.bool_]:
    """(B, T) where there is a token, not padding."""
    return np.arange(width) < lengths_B[:, None]
