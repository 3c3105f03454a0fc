"""Rows become tensors, padded on the right."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoder.batches import pad


def test_rows_are_padded_on_the_right() -> None:
    ids_BT, mask_BT = pad([[5, 6, 7], [8]], 9)
    assert ids_BT.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask_BT.tolist() == [[1, 1, 1], [1, 0, 0]]


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), as_arrays=st.booleans())
def test_padding_is_that_of_a_loop_over_rows(lengths: list[int], as_arrays: bool) -> None:
    rows = [[100 + row * 50 + token for token in range(length)] for row, length in enumerate(lengths)]
    given_rows: Any = [np.array(row, dtype=np.int32) for row in rows] if as_arrays else rows
    ids_BT, mask_BT = pad(given_rows, 9)
    assert ids_BT.tolist() == [row + [9] * (max(lengths) - len(row)) for row in rows]
    assert mask_BT.tolist() == [[1] * len(row) + [0] * (max(lengths) - len(row)) for row in rows]
    assert {ids_BT.dtype, mask_BT.dtype} == {torch.int64}
