"""Masking for masked-language-model training, as a pure function of (seed, epoch, row).

Who asks, on which worker, in which attempt, makes no difference. The number of masked tokens follows from the row alone
(``masked_count``), so a step's total, which divides its loss, is known before anything runs. Knows nothing of models or batches.
Rule: Devlin et al. 2019, section 3.1: of the chosen tokens 80 % become the mask token, 10 % a random one, 10 % stay.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_WORD = 2**64


class Masked(NamedTuple):
    """One row made ready for prediction. T = tokens of the row, K = masked positions."""

    ids: npt.NDArray[np.int32]
    """(T,) token ids with the replacements in place."""
    positions: npt.NDArray[np.int64]
    """(K,) ascending positions to predict."""
    labels: npt.NDArray[np.int32]
    """(K,) the original ids at ``positions``."""


def masked_count(maskable_tokens: int, share: float) -> int:
    """K, the number of tokens predicted in a row with ``maskable_tokens`` candidates: at least one, none when there are none."""
    if maskable_tokens <= 0 or share <= 0:
        return 0
    return min(maskable_tokens, max(1, round(share * maskable_tokens)))


def mask_row(
    ids: npt.NDArray[np.int32],
    maskable: npt.NDArray[np.bool_],
    *,
    share: float,
    seed: int,
    epoch: int,
    row: int,
    mask_id: int,
    vocabulary: int,
) -> Masked:
    """Choose and replace a fixed number of tokens.

    Args:
        ids: (T,) token ids; not changed.
        maskable: (T,) which tokens may be chosen; special tokens must be False.
        share: Share of the maskable tokens to predict.
        seed: Of the masks.
        epoch: The epoch in which the row is visited.
        row: The row's number in the data.
        mask_id: Id of the mask token.
        vocabulary: Random replacements are drawn from ``range(vocabulary)``.
    """
    candidates = np.flatnonzero(maskable)
    count = masked_count(len(candidates), share)
    # Raw counter output, not Generator methods: NumPy promises that these bits never change between versions (NEP 19).
    key = np.array([seed % _WORD, 0], dtype=np.uint64)
    counter = np.array([0, 0, row % _WORD, epoch % _WORD], dtype=np.uint64)
    bits = np.asarray(np.random.Philox(key=key, counter=counter).random_raw(len(candidates) + 2 * count))
    lots, kinds, words = np.split(bits, (len(candidates), len(candidates) + count))
    positions = np.sort(candidates[np.argsort(lots, kind="stable")[:count]])
    labels = ids[positions]
    fate = (kinds >> np.uint64(11)) * 2.0**-53
    replaced = np.where(fate < 0.8, mask_id, np.where(fate < 0.9, words % np.uint64(vocabulary), labels)).astype(np.int32)
    masked = np.array(ids, dtype=np.int32)
    masked[positions] = replaced
    return Masked(masked, positions, labels.astype(np.int32, copy=False))
