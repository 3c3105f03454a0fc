"""Which split each row is in: seeded, decided by row numbers, classes and group keys alone. Pure.

A column may say it (``marked_splits``); what it leaves to train is drawn from: stratified (``held_out``), or group by group where rows have
a group key (``held_out_groups``). ``assign`` puts these together. Splits are numbered as in ``labels.LABELLED_SPLITS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from corpus.labels import LABELLED_SPLITS
from corpus.order import order
from foundation.errors import DataError

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLIT_NAMES = {"train": TRAIN, "validation": VALIDATION, "val": VALIDATION, "valid": VALIDATION, "dev": VALIDATION, "test": TEST}
"""What a split column may say, in any case."""

# Below this a class (or all groups) keeps everything for training; from here on each held-out split gets at least one.
_SMALLEST_SPLIT_CLASS = 4

Split = npt.NDArray[np.int8]
Numbers = npt.NDArray[np.int64]


class Shares(NamedTuple):
    """How much to hold back."""

    validation: float
    test: float = 0.0


@dataclass(frozen=True)
class Groups:
    """Which rows belong together. N = rows, M = pairs of a row and a class that it has."""

    of_row: Numbers
    """(N,) group of each row, from 0; -1 belongs to none."""
    member_rows: Numbers
    """(M,) from ``labels.memberships``."""
    member_classes: Numbers
    """(M,)"""


def assign(marked: Split, strata: Numbers, shares: Shares, seed: int, groups: Groups | None = None) -> Split:
    """Split rows.

    Args:
        marked: (N,) what is known of each row; rows marked train may be drawn from. A share is only drawn where no row is marked as of
            that split.
        strata: (N,) what the draw is stratified by (``labels.strata_of``); -1 for rows without a label, which never become test rows.
        shares: Of the rows marked train.
        seed: Of the draws.
        groups: Rows with a group are drawn group by group and not stratified.

    Returns:
        (N,) split of each row.
    """
    split = marked.copy()
    shares = Shares(0.0 if (marked == VALIDATION).any() else shares.validation, 0.0 if (marked == TEST).any() else shares.test)
    in_group = np.zeros(len(marked), dtype=np.bool_) if groups is None else groups.of_row >= 0
    alone = np.flatnonzero((marked == TRAIN) & ~in_group)
    split[alone] = held_out(strata[alone], shares, seed)
    together = np.flatnonzero((marked == TRAIN) & in_group)
    if groups is not None and len(together):
        split[together] = held_out_groups(_part(groups, together, len(marked)), strata[together] >= 0, shares, seed)
    return split


def held_out(strata: Numbers, shares: Shares, seed: int) -> Split:
    """Draw rows, the same shares from each stratum. (N,) stratum of each row to (N,) its split.

    A stratum of fewer than four rows stays in train; a larger one gives each split that is asked for at least one row, and keeps one.
    """
    split = np.full(len(strata), TRAIN, dtype=np.int8)
    if not len(strata):
        return split
    ordered = np.argsort(strata, kind="stable")
    found, starts = np.unique(strata[ordered], return_index=True)
    for stratum, members in zip(found.tolist(), np.split(ordered, starts[1:]), strict=True):
        size = len(members)
        if size < _SMALLEST_SPLIT_CLASS:
            continue
        validation = min(size - 1, _at_least_one(shares.validation * size))
        test = min(size - 1 - validation, _at_least_one(shares.test * size)) if stratum >= 0 else 0
        # The permutation's epoch number keeps the draws of the strata apart.
        drawn = members[order(seed, stratum + 1, size)(np.arange(validation + test))]
        split[drawn[:validation]] = VALIDATION
        split[drawn[validation:]] = TEST
    return split


def held_out_groups(groups: Groups, is_labelled: npt.NDArray[np.bool_], shares: Shares, seed: int) -> Split:
    """Draw whole groups, all of them here, until the shares are met as nearly as may be.

    Groups are walked in a seeded order and taken while they fit; at the end one more is taken if that comes nearer. So a share is missed by
    at most half the rows of the smallest group that could still have been taken. A group stays in train while it is the last one there with
    some class, so that no class is unknown to train; this may leave a share short. Otherwise, from four groups on, each split that is asked
    for gets at least one.

    Args:
        groups: Every row has one.
        is_labelled: (N,) test takes groups with labelled rows only, and its share is one of those rows.
        shares: Of the rows.
        seed: Of the order.

    Returns:
        (N,) split of each row; rows of a group have the same one.
    """
    sizes = np.bincount(groups.of_row)
    count = len(sizes)
    pairs = np.unique(np.stack([groups.of_row[groups.member_rows], groups.member_classes], axis=1), axis=0)
    classes = [found.tolist() for found in np.split(pairs[:, 1], np.searchsorted(pairs[:, 0], np.arange(1, count)))]
    holders = np.bincount(pairs[:, 1], minlength=1).tolist()
    walk = order(seed, 0, count, part="groups")(np.arange(count)).tolist()
    chosen = np.full(count, TRAIN, dtype=np.int8)
    labelled = np.bincount(groups.of_row, weights=is_labelled, minlength=count)
    left = count

    def may_go(group: int) -> bool:
        return left > 1 and all(holders[name] > 1 for name in classes[group])

    def take(group: int, split: int) -> None:
        nonlocal left
        chosen[group] = split
        left -= 1
        for name in classes[group]:
            holders[name] -= 1

    for split, share, weights in ((VALIDATION, shares.validation, sizes), (TEST, shares.test, labelled)):
        if share <= 0:
            continue
        room = goal = _at_least_one(share * float(weights.sum()))
        for group in walk:
            if not room:
                break
            if chosen[group] == TRAIN and 0 < weights[group] <= room and may_go(group):
                take(group, split)
                room -= int(weights[group])
        rest = [group for group in walk if chosen[group] == TRAIN and weights[group] > 0] if room or not goal else []
        smallest = min((group for group in rest if may_go(group)), key=lambda group: weights[group], default=None)
        has_none = room == goal and count >= _SMALLEST_SPLIT_CLASS
        if smallest is not None and (has_none or weights[smallest] - room < room):
            take(smallest, split)
    return np.asarray(chosen[groups.of_row])


def marked_splits(found: Sequence[str | None], ids: Sequence[str], where: str) -> Split:
    """(N,) split of each row, as a column says it.

    Raises:
        DataError: Another word, or none; names rows.
    """
    numbers = {value: SPLIT_NAMES.get((value or "").strip().lower()) for value in set(found)}
    unknown = {value for value, number in numbers.items() if number is None}
    if unknown:
        rows = [name for value, name in zip(found, ids, strict=True) if value in unknown]
        values = ", ".join(sorted(map(repr, unknown))[:5])
        raise DataError(
            f"{where}: split column: found {values} in {len(rows)} rows ({', '.join(rows[:5])}{', …' if len(rows) > 5 else ''}); "
            f"expected {', '.join(SPLIT_NAMES)}"
        )
    return np.array([numbers[value] for value in found], dtype=np.int8)


def require_whole_groups(split: Split, of_row: Numbers, ids: Sequence[str], where: str) -> None:
    """Refuse groups that a split column or several sources divide.

    Raises:
        DataError: Names a row of each side.
    """
    rows = np.flatnonzero(of_row >= 0)
    ordered = rows[np.argsort(of_row[rows], kind="stable")]
    crossing = np.flatnonzero((np.diff(of_row[ordered]) == 0) & (np.diff(split[ordered]) != 0))
    if len(crossing):
        first, second = ordered[crossing[0]], ordered[crossing[0] + 1]
        told = [f"{ids[row]} in {LABELLED_SPLITS[split[row]]}" for row in (first, second)]
        raise DataError(
            f"{where}: rows of one group are told to be in two splits, for example {told[0]} and {told[1]}; leave out group_column, or "
            "make the splits follow it"
        )


def _at_least_one(rows: float) -> int:
    return max(1, round(rows)) if rows > 0 else 0


def _part(groups: Groups, rows: Numbers, total: int) -> Groups:
    """The groups of some rows, numbered anew."""
    place = np.full(total, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    inside = place[groups.member_rows] >= 0
    of_row = np.unique(groups.of_row[rows], return_inverse=True)[1].astype(np.int64)
    return Groups(of_row, place[groups.member_rows[inside]], groups.member_classes[inside])
