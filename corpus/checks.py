"""What is wrong, or at least odd, with labelled rows: pure functions over their splits that return findings, each of which names rows.

Two texts are the same when they differ in white space and letter case only; with pairs, both texts count. Texts are compared by 128-bit
digests, so a million rows take seconds. What becomes of a finding is configuration (``labelled_config.ChecksConfig``); whoever asks
raises (``findings.refuse``) or tells (``foundation.progress.say``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.findings import CheckKind, Finding, lacking, named, not_in_train
from corpus.labelled_config import ChecksConfig, Severity
from corpus.labels import LabelArray, LabelledSplit, class_counts, memberships, shown
from corpus.order import order

TokenCounter = Callable[[Sequence[str], Sequence[str] | None], npt.NDArray[np.int64]]
"""Tokens of each text, or of each pair of texts, special tokens counted and nothing cut."""

_SHOWN = 5
# Tokens of more rows are counted on a sample: its share is off by a third of a per cent at most (one standard error), and planning a run
# does not take minutes.
_COUNTED_ROWS = 20_000


@dataclass(frozen=True, eq=False)
class CheckedRows:
    """What the checks look at of one split. N = rows."""

    ids: Sequence[str]
    keys: npt.NDArray[np.uint64]
    """(N, 2) from ``text_keys``."""
    is_empty: npt.NDArray[np.bool_]
    """(N,) has no text."""
    labels: LabelArray

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, split: LabelledSplit) -> CheckedRows:
        """From rows in memory."""
        return cls(
            split.ids, text_keys(split.texts, split.pairs), np.array([not text.strip() for text in split.texts], np.bool_), split.labels
        )


Splits = Mapping[str, CheckedRows]
_Found = Iterator[tuple[str, Sequence[str]]]
"""Messages, each with the ids of all rows that it is about."""


def text_keys(texts: Sequence[str], pairs: Sequence[str] | None = None) -> npt.NDArray[np.uint64]:
    """(N, 2) digests, equal for texts (and pairs) that differ in white space and letter case only."""
    folded = (" ".join(text.split()).casefold() for text in texts)
    if pairs is not None:
        folded = (f"{text}\0{' '.join(pair.split()).casefold()}" for text, pair in zip(folded, pairs, strict=True))
    joined = b"".join(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in folded)
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64).reshape(-1, 2)


def check(splits: Splits, names: Sequence[str], config: ChecksConfig) -> tuple[Finding, ...]:
    """Everything that can be found without a tokenizer.

    Args:
        splits: ``train`` and, where there are such rows, ``validation`` and ``test``.
        names: Class names; empty for numbers.
        config: Severities and limits; what is ignored is not looked for.
    """
    codes = _codes(splits)
    asked: tuple[tuple[CheckKind, Severity, Callable[[], _Found]], ...] = (
        ("empty_texts", config.empty_texts, lambda: empty_texts(splits)),
        ("unseen_labels", config.unseen_labels, lambda: unseen_labels(splits, names)),
        ("conflicts", config.conflicts, lambda: conflicts(splits, codes, names)),
        ("leaks", config.leaks, lambda: leaks(splits, codes)),
        ("duplicates", config.duplicates, lambda: duplicates(splits, codes)),
        ("small_classes", config.small_classes, lambda: small_classes(splits["train"], names, config.smallest_class)),
        ("imbalance", config.imbalance, lambda: imbalance(splits["train"], names, config.imbalance_ratio)),
    )
    return tuple(
        Finding(kind, severity, message, tuple(rows)) for kind, severity, look in asked if severity != "ignore" for message, rows in look()
    )


def empty_texts(splits: Splits) -> _Found:
    """Rows without a text."""
    for rows in splits.values():
        ids = _ids(rows, rows.is_empty)
        if ids:
            yield lacking("text", ids, len(rows)), ids


def unseen_labels(splits: Splits, names: Sequence[str]) -> _Found:
    """Labels of held-out rows that no training row has."""
    trained = class_counts(splits["train"].labels, len(names)) > 0
    for name, rows in splits.items():
        numbers, classes = memberships(rows.labels)
        unseen = ~trained[classes]
        if name != "train" and unseen.any():
            ids = [rows.ids[i] for i in np.unique(numbers[unseen])]
            unknown = [names[i] for i in np.unique(classes[unseen]).tolist()]
            yield not_in_train(unknown, ids, [names[i] for i in np.flatnonzero(trained).tolist()]), ids


def conflicts(splits: Splits, codes: Mapping[str, npt.NDArray[np.int64]], names: Sequence[str]) -> _Found:
    """The same text with different labels, anywhere."""
    labels = np.concatenate([rows.labels for rows in splits.values()])
    if labels.ndim == 2:
        packed = np.packbits(labels, axis=1)
        labels_of_rows = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    else:
        labels_of_rows = labels
    _, kinds = np.unique(labels_of_rows, return_inverse=True)
    texts = np.concatenate(list(codes.values()))
    ids = [name for rows in splits.values() for name in rows.ids]
    known = np.flatnonzero(texts >= 0)
    first = np.zeros(int(texts.max(initial=0)) + 1, dtype=np.int64)
    first[texts[known[::-1]]] = known[::-1]  # of equal places the last one written, which is the first row, stays
    differing = np.unique(texts[known[kinds[known] != kinds[first[texts[known]]]]])
    if not len(differing):
        return
    involved = known[np.isin(texts[known], differing)]
    involved = involved[np.argsort(texts[involved], kind="stable")]
    told = []
    for text in differing[:3].tolist():
        # One row of each label.
        rows = involved[texts[involved] == text]
        rows = rows[np.sort(np.unique(kinds[rows], return_index=True)[1])][:3].tolist()
        told.append(", ".join(f"{ids[row]} ({shown(labels, row, names)})" for row in rows))
    more = "; …" if len(differing) > len(told) else ""
    yield f"{_texts(len(differing), 'has', 'have')} different labels: {'; '.join(told)}{more}", [ids[row] for row in involved]


def leaks(splits: Splits, codes: Mapping[str, npt.NDArray[np.int64]]) -> _Found:
    """The same text in two splits; one finding for each two splits."""
    for first, second in combinations(splits, 2):
        shared = np.intersect1d(codes[first], codes[second])
        shared = shared[shared >= 0]
        if len(shared):
            seen = _ids(splits[first], np.isin(codes[first], shared))
            held_out = _ids(splits[second], np.isin(codes[second], shared))
            yield (
                f"{_texts(len(shared), 'stands', 'stand')} in {first} and in {second} ({second} rows: {named(held_out)})",
                held_out + seen,
            )


def duplicates(splits: Splits, codes: Mapping[str, npt.NDArray[np.int64]]) -> _Found:
    """The same text more than once in a split."""
    for name, rows in splits.items():
        distinct, counts = np.unique(codes[name], return_counts=True)
        again = distinct[(counts > 1) & (distinct >= 0)]
        if len(again):
            ids = _ids(rows, np.isin(codes[name], again))
            yield f"{_texts(len(again), 'stands', 'stand')} more than once in {name} ({len(ids)} rows: {named(ids)})", ids


def small_classes(train: CheckedRows, names: Sequence[str], smallest: int) -> _Found:
    """Classes with fewer than ``smallest`` training rows; those without any are unseen labels."""
    counts = class_counts(train.labels, len(names))
    small = np.flatnonzero((counts > 0) & (counts < smallest))
    if len(small):
        small = small[np.argsort(counts[small], kind="stable")]
        numbers, classes = memberships(train.labels)
        ids = [train.ids[i] for i in np.unique(numbers[np.isin(classes, small)])]
        told = ", ".join(f"{names[i]} ({counts[i]})" for i in small[:_SHOWN].tolist()) + (", …" if len(small) > _SHOWN else "")
        has = "class has" if len(small) == 1 else "classes have"
        yield f"{len(small)} {has} fewer than {smallest} rows in train: {told}; rows {named(ids)}", ids


def imbalance(train: CheckedRows, names: Sequence[str], ratio: float) -> _Found:
    """The largest class against the smallest one that has rows."""
    counts = class_counts(train.labels, len(names))
    if not counts.any():
        return
    largest, smallest = int(counts.argmax()), int(np.where(counts > 0, counts, counts.max() + 1).argmin())
    if counts[largest] > ratio * counts[smallest]:
        numbers, classes = memberships(train.labels)
        ids = [train.ids[i] for i in numbers[classes == smallest]]
        told = f"{names[largest]} has {counts[largest]:,} rows in train, {names[smallest]} {counts[smallest]:,}: more than {ratio:g} to 1"
        yield f"{told}; rows of {names[smallest]}: {named(ids)}", ids


def long_texts(splits: Mapping[str, LabelledSplit], count: TokenCounter, max_length: int, severity: Severity) -> tuple[Finding, ...]:
    """Texts that will be cut: how many, which share of all tokens goes, the longest. Of more than 20,000 rows a fixed sample is counted.

    Args:
        splits: The rows.
        count: Counts tokens.
        max_length: Tokens that are kept, special tokens counted.
        severity: ``ignore`` counts nothing.
    """
    rows = [(split, number) for split in splits.values() for number in range(len(split))] if severity != "ignore" else []
    total = len(rows)
    if total > _COUNTED_ROWS:
        rows = [rows[i] for i in np.sort(order(0, 0, total, part="long texts")(np.arange(_COUNTED_ROWS))).tolist()]
    if severity == "ignore" or not rows:
        return ()
    has_pairs = all(split.pairs is not None for split in splits.values())
    tokens = count([split.texts[i] for split, i in rows], [(split.pairs or [])[i] for split, i in rows] if has_pairs else None)
    is_long = tokens > max_length
    if not is_long.any():
        return ()
    ids = [rows[i][0].ids[rows[i][1]] for i in np.flatnonzero(is_long).tolist()]
    longest = int(tokens.argmax())
    lost = np.maximum(tokens - max_length, 0).sum() / tokens.sum()
    sample = f" (of a sample of {len(rows):,} rows)" if total > len(rows) else ""
    message = (
        f"{len(ids):,} of {len(rows):,} texts ({100 * is_long.mean():.1f} %) are longer than max_length={max_length} tokens and lose "
        f"{100 * lost:.1f} % of all tokens{sample}; the longest is {rows[longest][0].ids[rows[longest][1]]} with {tokens[longest]:,}; "
        f"rows {named(ids)}"
    )
    return (Finding("long_texts", severity, message, tuple(ids)),)


def _codes(splits: Splits) -> dict[str, npt.NDArray[np.int64]]:
    """Split to (N,) numbers, equal for equal texts in whichever split; -1 for empty texts."""
    keys = np.ascontiguousarray(np.concatenate([rows.keys for rows in splits.values()]))
    digests = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(keys), [None, pa.py_buffer(keys.tobytes())])
    codes = digests.dictionary_encode().indices.to_numpy().astype(np.int64)
    codes[np.concatenate([rows.is_empty for rows in splits.values()])] = -1
    return dict(zip(splits, np.split(codes, np.cumsum([len(rows) for rows in splits.values()])[:-1]), strict=True))


def _ids(rows: CheckedRows, chosen: npt.NDArray[np.bool_]) -> list[str]:
    return [rows.ids[i] for i in np.flatnonzero(chosen).tolist()]


def _texts(count: int, verb: str, verbs: str) -> str:
    return f"1 text {verb}" if count == 1 else f"{count:,} texts {verbs}"
