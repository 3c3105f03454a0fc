"""Who goes into validation: seeded, stratified, decided by row number and class alone. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from corpus.order import order

# Below this a class keeps all its rows for training; from here on validation gets at least one of them.
_SMALLEST_SPLIT_CLASS = 4


def validation_rows(groups: npt.NDArray[np.int64], fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose rows to hold back, the same share from each group.

    Args:
        groups: (N,) class index of each row, -1 for rows without a class.
        fraction: Share to hold back.
        seed: Of the choice.

    Returns:
        (N,) True for validation. All False when every group is too small or ``fraction`` is 0.
    """
    chosen = np.zeros(len(groups), dtype=np.bool_)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        count = 0
        if fraction > 0 and len(members) >= _SMALLEST_SPLIT_CLASS:
            count = min(len(members) - 1, max(1, round(fraction * len(members))))
        # The permutation's epoch number keeps the draws of the groups apart.
        chosen[members[order(seed, int(group) + 1, len(members))(np.arange(count))]] = True
    return chosen
