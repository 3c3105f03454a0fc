"""Rows of token ids to padded tensors, and the attention mask of packed rows. Shapes: B rows, T tokens, D documents in a row."""

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


def document_layout(starts: Sequence[Ids], lengths: Sequence[int], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which document each token of a packed row belongs to, and its position in it.

    Args:
        starts: Per row, the offsets at which documents begin; the first is 0.
        lengths: Tokens in each row.
        width: T, at least the longest row.

    Returns:
        document_BT (int64; -1 for padding) and positions_BT (int64, counted from each document's start).
    """
    # D documents of all rows, one row behind the other.
    counts_B, lengths_B = np.array([len(row) for row in starts], dtype=np.int64), np.asarray(lengths, dtype=np.int64)
    starts_D = np.concatenate([np.asarray(row, dtype=np.int64) for row in starts])
    last_B = np.cumsum(counts_B) - 1
    ends_D = np.append(starts_D[1:], 0)
    ends_D[last_B] = lengths_B
    numbers_D = np.arange(len(starts_D)) - np.repeat(last_B + 1 - counts_B, counts_B)
    sizes_D = ends_D - starts_D
    is_token_BT = _is_token(lengths_B, width)
    document_BT = np.full(is_token_BT.shape, -1, dtype=np.int64)
    document_BT[is_token_BT] = np.repeat(numbers_D, sizes_D)
    positions_BT = np.where(is_token_BT, np.arange(width), 0)
    positions_BT[is_token_BT] -= np.repeat(starts_D, sizes_D)
    return torch.from_numpy(document_BT), torch.from_numpy(positions_BT)


def block_attention(document_BT: torch.Tensor) -> torch.Tensor:
    """The 4-D boolean mask (B, 1, T, T) under which a token attends to its own document only.

    transformers' bidirectional masks do not look at position ids, so a packed row needs this mask or documents see each other without any
    error. Padding attends to itself: a query that may attend to nothing would be NaN.
    """
    same_BTT = document_BT.unsqueeze(2) == document_BT.unsqueeze(1)
    return same_BTT.unsqueeze(1)


def _is_token(lengths_B: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.bool_]:
    """(B, T) where there is a token, not padding."""
    return np.arange(width) < lengths_B[:, None]
