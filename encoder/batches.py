"""Rows of token ids to padded tensors, and the attention mask of packed rows. Shapes: B rows, T tokens, D documents in a row."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows on the right to the longest of them.

    Returns:
        ids_BT (int64) and mask_BT (int64, 1 where there is a token).
    """
    longest = max(len(row) for row in rows)
    ids_BT = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask_BT = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        ids_BT[index, : len(row)] = torch.as_tensor(row, dtype=torch.long)
        mask_BT[index, : len(row)] = 1
    return ids_BT, mask_BT


def document_layout(starts: Sequence[Sequence[int]], lengths: Sequence[int], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which document each token of a packed row belongs to, and its position in it.

    Args:
        starts: Per row, the offsets at which documents begin; the first is 0.
        lengths: Tokens in each row.
        width: T, at least the longest row.

    Returns:
        document_BT (int64; -1 for padding) and positions_BT (int64, counted from each document's start).
    """
    document_BT = torch.full((len(starts), width), -1, dtype=torch.long)
    positions_BT = torch.zeros((len(starts), width), dtype=torch.long)
    for row, (row_starts, length) in enumerate(zip(starts, lengths, strict=True)):
        ends = [*row_starts[1:], length]
        for number, (start, end) in enumerate(zip(row_starts, ends, strict=True)):
            document_BT[row, start:end] = number
            positions_BT[row, start:end] = torch.arange(end - start)
    return document_BT, positions_BT


def block_attention(document_BT: torch.Tensor) -> torch.Tensor:
    """The 4-D boolean mask (B, 1, T, T) under which a token attends to its own document only.

    transformers' bidirectional masks do not look at position ids, so a packed row needs this mask or documents see each other without any
    error. Padding attends to itself: a query that may attend to nothing would be NaN.
    """
    same_BTT = document_BT.unsqueeze(2) == document_BT.unsqueeze(1)
    return same_BTT.unsqueeze(1)
