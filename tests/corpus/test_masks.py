"""Masks depend on (seed, epoch, row) alone, choose a known number of tokens, and follow BERT's 80/10/10."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corpus.masks import Masked, mask_row, masked_count

VOCABULARY, MASK = 30_000, 103


def mask(ids: Any, maskable: Any, *, share: float = 0.15, seed: int = 0, epoch: int = 0, row: int = 0) -> Masked:
    return mask_row(
        np.asarray(ids, dtype=np.int32),
        np.asarray(maskable, dtype=np.bool_),
        share=share,
        seed=seed,
        epoch=epoch,
        row=row,
        mask_id=MASK,
        vocabulary=VOCABULARY,
    )


@given(
    maskable=st.lists(st.booleans(), max_size=200),
    share=st.floats(0, 1),
    seed=st.integers(-5, 2**65),
    epoch=st.integers(0, 2**33),
    row=st.integers(0, 2**40),
)
def test_masks_choose_the_promised_number_of_allowed_tokens(maskable: list[bool], share: float, seed: int, epoch: int, row: int) -> None:
    ids = np.arange(1_000, 1_000 + len(maskable), dtype=np.int32)
    found = mask(ids, maskable, share=share, seed=seed, epoch=epoch, row=row)
    assert len(found.positions) == len(found.labels) == masked_count(sum(maskable), share)
    assert all(maskable[position] for position in found.positions)
    assert np.array_equal(found.positions, np.unique(found.positions))
    assert np.array_equal(found.labels, ids[found.positions])
    untouched = np.setdiff1d(np.arange(len(ids)), found.positions)
    assert np.array_equal(found.ids[untouched], ids[untouched])
    assert np.array_equal(ids, np.arange(1_000, 1_000 + len(maskable)))
    again = mask(ids, maskable, share=share, seed=seed, epoch=epoch, row=row)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


def test_rows_epochs_and_seeds_get_masks_of_their_own() -> None:
    ids, maskable = np.arange(128) + 1_000, np.ones(128)
    keys = [{}, {"row": 1}, {"epoch": 1}, {"seed": 1}]
    found = [tuple(mask(ids, maskable, **key).positions) for key in keys]
    assert len(set(found)) == 4


def test_eight_of_ten_become_the_mask_one_is_random_one_stays() -> None:
    ids, maskable = np.arange(512) + 1_000, np.ones(512)
    masked = random = kept = 0
    chosen = np.zeros(512)
    for row in range(400):
        found = mask(ids, maskable, row=row)
        new = found.ids[found.positions]
        masked += int((new == MASK).sum())
        kept += int((new == found.labels).sum())
        random += int(((new != MASK) & (new != found.labels)).sum())
        chosen[found.positions] += 1
    total = masked + random + kept
    assert total == 400 * masked_count(512, 0.15)
    assert abs(masked / total - 0.8) < 0.01
    assert abs(random / total - 0.1) < 0.01
    assert abs(kept / total - 0.1) < 0.01
    # Each position is as likely as any other: 400 draws at 15 %, five standard deviations.
    assert np.abs(chosen - 60).max() < 5 * (400 * 0.15 * 0.85) ** 0.5


def test_a_row_has_at_least_one_masked_token_if_it_can_have_one() -> None:
    assert masked_count(1, 0.15) == 1
    assert masked_count(0, 0.15) == 0
    assert masked_count(100, 0.15) == 15
    assert masked_count(3, 1.0) == 3
    assert len(mask([101, 102], [False, False]).positions) == 0


def test_masks_never_change_between_versions() -> None:
    assert mask(np.arange(20) + 1_000, np.ones(20), seed=1, epoch=2, row=3).positions.tolist() == [8, 9, 11]
