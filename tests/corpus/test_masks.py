"""Masks depend on (seed, epoch, row) alone, choose a known number of tokens, words or spans, and follow BERT's 80/10/10."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.masks import (
    LinearShare,
    Masked,
    Masking,
    Spans,
    mask_row,
    masked_count,
    masked_counts,
    pad_predictions,
    predicted_count,
    share_at,
)

VOCABULARY, MASK = 30_000, 103


def mask(ids: Any, maskable: Any, *, share: float = 0.15, seed: int = 0, epoch: int = 0, row: int = 0, **more: Any) -> Masked:
    return mask_row(
        np.asarray(ids, dtype=np.int32),
        np.asarray(maskable, dtype=np.bool_),
        share=share,
        seed=seed,
        epoch=epoch,
        row=row,
        mask_id=MASK,
        vocabulary=VOCABULARY,
        **more,
    )


def words_of(maskable: list[bool], continues: list[bool]) -> list[list[int]]:
    """Positions of each word, spelled out."""
    found: list[list[int]] = []
    for position, is_maskable in enumerate(maskable):
        if is_maskable and continues[position] and found and found[-1][-1] == position - 1:
            found[-1].append(position)
        elif is_maskable:
            found.append([position])
    return found


tokens = st.lists(st.tuples(st.sampled_from([True, True, True, False]), st.booleans()), max_size=80)


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


@given(sizes=st.lists(st.integers(0, 10_000), max_size=50), share=st.floats(0, 1) | st.sampled_from([0.15, 0.3, 0.5]))
def test_the_numbers_of_many_rows_are_those_of_each(sizes: list[int], share: float) -> None:
    assert masked_counts(np.array(sizes, dtype=np.int64), share).tolist() == [masked_count(size, share) for size in sizes]


@given(tokens=tokens, share=st.floats(0, 1), has_spans=st.booleans(), predictions=st.none() | st.integers(1, 30), row=st.integers(0, 2**40))
def test_words_are_masked_whole_and_their_number_is_known_without_drawing(
    tokens: list[tuple[bool, bool]], share: float, has_spans: bool, predictions: int | None, row: int
) -> None:
    maskable, continues = [is_maskable for is_maskable, _ in tokens], [is_piece for _, is_piece in tokens]
    masking = Masking(spans=Spans() if has_spans else None, predictions=predictions)
    flags = np.array(continues, dtype=np.bool_)
    found = set(mask(np.arange(len(tokens)), maskable, share=share, row=row, masking=masking, continues=flags).positions.tolist())
    words = words_of(maskable, continues)
    assert all(found.issuperset(word) or found.isdisjoint(word) for word in words)
    assert len(found) == predicted_count(np.array(maskable, dtype=np.bool_), share, masking=masking, continues=flags)
    # No other choice of words, tried one sum after the other, comes nearer to the wanted number.
    sums = {0}
    for word in words:
        sums |= {smaller + len(word) for smaller in sums}
    most = min(predictions or len(tokens), len(tokens))
    wanted = min(masked_count(sum(maskable), share), most)
    allowed = {reached for reached in sums if 0 < reached <= most}
    assert len(found) == (min(allowed, key=lambda reached: (abs(reached - wanted), reached)) if wanted and allowed else 0)


def test_words_that_cannot_fill_the_wanted_number_come_as_near_as_they_can() -> None:
    pairs, single = np.arange(10) % 2 == 1, np.arange(5) > 0
    assert masked_count(10, 0.3) == 3
    # 2 and 4 are as near; the smaller. One word of five tokens rather than none, unless it does not fit.
    assert predicted_count(np.ones(10, dtype=np.bool_), 0.3, continues=pairs) == 2
    assert predicted_count(np.ones(5, dtype=np.bool_), 0.15, continues=single) == 5
    assert predicted_count(np.ones(5, dtype=np.bool_), 0.15, continues=single, masking=Masking(predictions=4)) == 0
    assert len(mask(np.arange(10), np.ones(10), share=0.3, continues=pairs).positions) == 2


@given(maskable=st.lists(st.booleans(), max_size=120), share=st.floats(0, 1), row=st.integers(0, 2**40))
def test_spans_choose_the_promised_number_of_allowed_tokens(maskable: list[bool], share: float, row: int) -> None:
    found = mask(np.arange(len(maskable)), maskable, share=share, row=row, masking=Masking(spans=Spans()))
    assert len(found.positions) == masked_count(sum(maskable), share)
    assert all(maskable[position] for position in found.positions)
    assert np.array_equal(found.positions, np.unique(found.positions))


def test_spans_have_spanberts_lengths_and_one_fate_each() -> None:
    # So few of so many tokens that spans seldom touch, and only the last one of a row is cut.
    ids, maskable = np.arange(4_000) + 1_000, np.ones(4_000)
    masking, lengths, fates = Masking(spans=Spans()), [], []
    for row in range(60):
        found = mask(ids, maskable, share=0.02, row=row, masking=masking)
        for span in np.split(np.arange(80), np.flatnonzero(np.diff(found.positions) > 1) + 1):
            lengths.append(len(span))
            new, old = found.ids[found.positions[span]], found.labels[span]
            fates.append("mask" if (new == MASK).all() else "stay" if (new == old).all() else "random" if (new != old).all() else "mixed")
    # Geometric with p = 0.2 below 11: mean 3.8, one in 4.46 of length 1.
    assert abs(np.mean(lengths) - 3.8) < 0.3
    assert abs(np.mean(np.array(lengths) == 1) - 0.2 / (1 - 0.8**10)) < 0.05
    assert abs(np.mean(np.array(fates) == "mask") - 0.8) < 0.05
    assert np.mean(np.array(fates) == "mixed") < 0.05
    assert np.mean(np.array(lengths) > 10) < 0.1


def test_spans_begin_with_words() -> None:
    continues = np.arange(60) % 3 != 0
    for row in range(50):
        found = mask(np.arange(60), np.ones(60), row=row, masking=Masking(spans=Spans(p=0.01, longest=4)), continues=continues)
        assert len(found.positions) == 9
        assert all(run[0] % 3 == 0 for run in np.split(found.positions, np.flatnonzero(np.diff(found.positions) > 1) + 1))


def test_spans_do_not_go_on_behind_a_special_token() -> None:
    maskable = np.arange(60) != 30
    masking = Masking(spans=Spans(p=0.01, longest=10))
    both = [{29, 31} <= set(mask(np.arange(60), maskable, row=row, masking=masking).positions.tolist()) for row in range(400)]
    # Nine tokens are one span in most rows. If spans went on, about 8 of 59 starts would reach both sides: 54 rows.
    assert sum(both) < 12


def test_words_of_every_length_are_chosen_about_as_often() -> None:
    # Words of 1, 2 and 3 pieces in turn.
    continues = np.tile(np.array([0, 0, 1, 0, 1, 1], dtype=np.bool_), 60)
    chosen = np.zeros(360)
    for row in range(500):
        chosen[mask(np.arange(360), np.ones(360), row=row, continues=continues).positions] += 1
    by_length = [chosen.reshape(60, 6)[:, columns].mean() / 500 for columns in ([0], [1, 2], [3, 4, 5])]
    assert np.abs(np.array(by_length) - 0.15).max() < 0.01


def test_the_shares_of_mask_random_and_kept_tokens_can_be_set() -> None:
    ids, maskable = np.arange(400) + 1_000, np.ones(400)
    all_masked = mask(ids, maskable, share=0.5, masking=Masking(mask=1.0, random=0.0))
    assert (all_masked.ids[all_masked.positions] == MASK).all()
    all_random = mask(ids, maskable, share=0.5, masking=Masking(mask=0.0, random=1.0))
    assert np.mean(all_random.ids[all_random.positions] == all_random.labels) < 0.05
    assert not np.isin(MASK, all_random.ids)
    all_kept = mask(ids, maskable, share=0.5, masking=Masking(mask=0.0, random=0.0))
    assert np.array_equal(all_kept.ids, ids)
    # What becomes of a token does not move which are chosen.
    assert np.array_equal(all_masked.positions, all_random.positions)


def test_random_tokens_come_from_the_given_ids_only() -> None:
    allowed = np.array([7, 11, 13], dtype=np.int32)
    found = mask(np.arange(600) + 1_000, np.ones(600), share=0.5, masking=Masking(mask=0.0, random=1.0), replacements=allowed)
    assert set(found.ids[found.positions].tolist()) == {7, 11, 13}


@given(tokens=st.integers(0, 60), predictions=st.integers(1, 20), share=st.floats(0, 1))
def test_padded_predictions_have_one_shape_and_weigh_only_real_ones(tokens: int, predictions: int, share: float) -> None:
    masked = mask(np.arange(tokens) + 1_000, np.ones(tokens), share=share, masking=Masking(predictions=predictions))
    padded = pad_predictions(masked, predictions)
    count = min(predictions, masked_count(tokens, share))
    assert len(padded.positions) == len(padded.labels) == len(padded.weights) == predictions
    assert padded.weights.tolist() == [1.0] * count + [0.0] * (predictions - count)
    assert np.array_equal(padded.positions[:count], masked.positions)
    assert np.array_equal(padded.labels[:count], masked.labels)
    assert not padded.positions[count:].any()


def test_a_row_with_more_predictions_than_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has 15 predictions, room is for 14; mask it with Masking\(predictions=14\)"):
        pad_predictions(mask(np.arange(100), np.ones(100)), 14)


def test_the_share_falls_linearly_and_stays() -> None:
    falling = LinearShare(steps=1_000)
    assert [share_at(step, falling) for step in (0, 1_000, 5_000)] == pytest.approx([0.30, 0.15, 0.15])
    assert share_at(500, falling) == pytest.approx(0.225)
    assert share_at(123, 0.15) == 0.15
    assert share_at(5, LinearShare(steps=10, first=0.1, last=0.3)) == pytest.approx(0.2)


def test_a_smaller_share_masks_a_part_of_what_a_larger_one_masks() -> None:
    ids, maskable = np.arange(200), np.ones(200)
    few, many = (set(mask(ids, maskable, share=share).positions.tolist()) for share in (0.15, 0.3))
    assert few < many


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 1 together"):
        Masking(mask=0.9, random=0.2)
    with pytest.raises(ValueError, match="predictions = 0"):
        Masking(predictions=0)
    with pytest.raises(ValueError, match=r"0 < p < 1"):
        Spans(p=0.0)
    with pytest.raises(ValueError, match=r"a share from 0\.3 to 1\.5 in 10 steps"):
        LinearShare(steps=10, last=1.5)


def test_masks_never_change_between_versions() -> None:
    assert mask(np.arange(20) + 1_000, np.ones(20), seed=1, epoch=2, row=3).positions.tolist() == [8, 9, 11]
    continues = np.arange(20) % 3 == 2
    spans = Masking(spans=Spans())
    key = {"share": 0.3, "seed": 1, "epoch": 2, "row": 3}
    found = mask(np.arange(20) + 1_000, np.ones(20), continues=continues, **key)
    assert found.positions.tolist() == [9, 12, 13, 14, 16, 17]
    assert found.ids[found.positions].tolist() == [103, 103, 103, 1014, 103, 103]
    assert mask(np.arange(20) + 1_000, np.ones(20), masking=spans, **key).positions.tolist() == [8, 9, 10, 11, 12, 13]
    assert mask(np.arange(20), np.ones(20), masking=spans, continues=continues, **key).positions.tolist() == [13, 14, 15, 16, 17, 18]
    dense = mask(np.full(40, 1_000), np.ones(40), share=0.7, seed=1, row=5, masking=Masking(mask=0.5, random=0.0, spans=Spans()))
    assert "".join("m" if new == MASK else "." for new in dense.ids[dense.positions]) == "mmmm....mmmmmmmmmmm..mmmmmm."
