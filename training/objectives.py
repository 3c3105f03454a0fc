"""What is learnt: rows of the data become batches, batches become summed losses and evaluation counts.

An objective knows data and model, nothing of steps, ranks or engines. Losses are sums; the loop divides by the step's own count. Batches
hold documents one behind the other, without padding (``encoder/padding_free.py``). What labels mean is ``tasks.py``.
Shapes: B rows, D documents, N tokens, M masked positions, V vocabulary, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from corpus.masks import BERT, LinearShare, Masking, mask_row, masked_counts, predicted_count, share_at
from corpus.next_sentence import FEWEST_TOKENS, NO_PAIR, paired_row
from corpus.order import StepRows
from corpus.shards import PackedRows
from encoder.config import AttentionKind
from encoder.padding_free import class_logits, documents, masked_logits, pretraining_logits
from training.tasks import Task, target_tensor

Batch = dict[str, Any]
"""Tensors, and ``Documents``: everything has ``to(device)``."""
Rows = Sequence[npt.NDArray[np.int32]]

EVALUATION_SHARE = 0.15
"""Share of tokens predicted in held-out rows, whatever training does: losses at other shares cannot be compared."""


class ModelObjective(Protocol):
    """An objective of ``loader.Objective``'s kind, with what engines call on the model."""

    def loss_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        """Scalar: the batch's summed loss."""

    def counts(self, model: Any, batch: Batch) -> torch.Tensor:
        """1-D float64: what ``metrics`` needs, summable over batches and ranks."""

    def metrics(self, counts: Sequence[float]) -> dict[str, float]:
        """Metrics from summed counts."""


class Supervised:
    """Labelled texts or pairs of texts, whatever their labels are."""

    def __init__(
        self,
        token_ids: Rows,
        labels: np.ndarray,
        ids: Sequence[str],
        *,
        task: Task,
        attention: AttentionKind,
        types: Rows | None = None,
    ) -> None:
        """``labels`` (rows, …) as ``tasks.py`` has them; ``types`` are token types, None for all 0."""
        self._token_ids, self._types = token_ids, types
        self._lengths = np.array([len(row) for row in token_ids], dtype=np.int64)
        self._labels, self._ids = labels, ids
        self._task, self._attention = task, attention
        self.rows = len(token_ids)

    def lengths(self, rows: StepRows) -> list[int]:
        """Tokens of each row."""
        found: list[int] = self._lengths[rows.rows].tolist()
        return found

    def count(self, rows: StepRows) -> float:
        """As the task says."""
        return self._task.count(self._labels[rows.rows])

    def batch(self, rows: StepRows, members: Sequence[int], weight: float) -> Batch:
        """The documents, their labels in the same order, and the weight."""
        chosen = rows.rows[list(members)]
        types_N = None if self._types is None else np.concatenate([self._types[row] for row in chosen])
        ids_N = np.concatenate([self._token_ids[row] for row in chosen])
        found, placed = documents(ids_N, self._lengths[chosen], self._attention, types_N)
        labels = target_tensor(self._labels[chosen[placed.documents_D]])
        return {"documents": found, "labels": labels, "weight": torch.tensor(weight)}

    def row_ids(self, rows: StepRows, members: Sequence[int]) -> list[str]:
        """``EPOCH/ID`` of each row."""
        return [f"{rows.epochs[member]}/{self._ids[rows.rows[member]]}" for member in members]

    def loss_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        """The task's summed loss."""
        weight: torch.Tensor = batch["weight"]
        return self._task.loss_sum(class_logits(model, batch["documents"]).float(), batch["labels"]) * weight

    def counts(self, model: Any, batch: Batch) -> torch.Tensor:
        """The task's counts."""
        weight: torch.Tensor = batch["weight"]
        return self._task.counts(class_logits(model, batch["documents"]).float(), batch["labels"]) * weight.double()

    def metrics(self, counts: Sequence[float]) -> dict[str, float]:
        """The task's metrics."""
        return self._task.metrics(counts)


@dataclass(frozen=True)
class LengthRamp:
    """Documents in pieces whose longest grows linearly with the step."""

    first: int
    steps: int
    whole: int
    """No document is longer."""

    def at(self, step: int | None) -> int:
        """Tokens of the longest piece at ``step``; held-out rows, which have none, are whole."""
        if step is None or step >= self.steps:
            return self.whole
        return min(self.whole, self.first + (self.whole - self.first) * step // self.steps)


class MaskedLanguageModel:
    """Masked-token prediction on packed rows: attention and positions per document, logits only where a token was masked.

    With a separator, next-sentence prediction besides: its mean over the step's pairs is added to the mean over masked tokens.
    """

    def __init__(
        self,
        packed: PackedRows,
        *,
        mask_share: float | LinearShare,
        seed: int,
        mask_id: int,
        vocabulary: int,
        attention: AttentionKind = "runs",
        masking: Masking = BERT,
        continues: npt.NDArray[np.bool_] | None = None,
        ramp: LengthRamp | None = None,
        separator: int | None = None,
    ) -> None:
        """``continues`` (V,) says of each token whether it continues a word; given, whole words are masked. ``separator`` is the id between
        the halves of a document; None predicts no next sentences."""
        self._packed = packed
        self._mask_share = mask_share
        self._masking, self._continues = masking, continues
        self._seed = seed
        self._mask_id, self._vocabulary = mask_id, vocabulary
        self._attention, self._ramp, self._separator = attention, ramp, separator
        self._weighed: tuple[StepRows, float] | None = None
        self.rows = len(packed)

    def lengths(self, rows: StepRows) -> list[int]:
        """Tokens of each packed row."""
        found: list[int] = self._packed.lengths(rows.rows).tolist()
        return found

    def count(self, rows: StepRows) -> float:
        """Masked tokens, known before any is masked."""
        share = self._share(rows)
        if self._continues is None and self._masking.predictions is None and self._separator is None:
            return float(masked_counts(self._packed.maskable_counts(rows.rows), share).sum())
        total = 0
        for number, epoch in zip(rows.rows.tolist(), rows.epochs.tolist(), strict=True):
            ids = self._row(number, epoch).ids
            total += predicted_count(self._packed.maskable(ids), share, masking=self._masking, continues=self._continuing(ids))
        return float(total)

    def batch(self, rows: StepRows, members: Sequence[int], weight: float) -> Batch:
        """The documents after masking, their masked tokens asked for, with ``labels`` (M,) and the weight. With next-sentence prediction
        first tokens are asked for besides: ``masked`` and ``firsts`` say which is which, ``is_other`` (D,) what to answer, and
        ``pair_weight`` what a pair's loss counts beside a masked token's."""
        chosen = list(members)
        numbers, epochs, share = rows.rows[chosen].tolist(), rows.epochs[chosen].tolist(), self._share(rows)
        made = [self._row(number, epoch) for number, epoch in zip(numbers, epochs, strict=True)]
        masked = [
            mask_row(
                row.ids,
                self._packed.maskable(row.ids),
                share=share,
                seed=self._seed,
                epoch=epoch,
                row=number,
                mask_id=self._mask_id,
                vocabulary=self._vocabulary,
                masking=self._masking,
                continues=self._continuing(row.ids),
            )
            for row, number, epoch in zip(made, numbers, epochs, strict=True)
        ]
        longest = self._packed.sequence_length if self._ramp is None else self._ramp.at(rows.step)
        sizes_D = np.concatenate([_sizes(row.starts, len(row.ids), longest) for row in made])
        types_N = None if self._separator is None else np.concatenate([row.types for row in made])
        found, placed = documents(np.concatenate([row.ids for row in masked]), sizes_D, self._attention, types_N)
        before_B = np.cumsum([0, *(len(row.ids) for row in made)])
        masked_M = placed.places(np.concatenate([row.positions + before for row, before in zip(masked, before_B, strict=False)]))
        ascending = np.argsort(masked_M)
        masked_M = masked_M[ascending]
        labels_M = np.concatenate([row.labels for row in masked]).astype(np.int64)[ascending]
        batch = {"documents": found.asking(masked_M), "labels": torch.from_numpy(labels_M), "weight": torch.tensor(weight)}
        if self._separator is None:
            return batch
        firsts_D = found.asked_K.numpy()
        asked_K = np.union1d(masked_M, firsts_D)
        is_other = np.concatenate([row.is_other for row in made])[placed.documents_D]
        return batch | {
            "documents": found.asking(asked_K),
            "masked": torch.from_numpy(np.searchsorted(asked_K, masked_M)),
            "firsts": torch.from_numpy(np.searchsorted(asked_K, firsts_D)),
            "is_other": torch.from_numpy(is_other),
            "pair_weight": torch.tensor(self._pair_weight(rows)),
        }

    def _row(self, number: int, epoch: int) -> _Made:
        ids, starts = self._packed.row(number)
        if self._separator is None:
            return _Made(ids, starts)
        paired = paired_row(
            ids,
            starts,
            row=number,
            rows=self.rows,
            words_of=self._words_of,
            separator=self._separator,
            seed=self._seed,
            epoch=epoch,
        )
        return _Made(paired.ids, starts, paired.types, paired.is_other)

    def _words_of(self, row: int) -> npt.NDArray[np.int32]:
        ids = self._packed.row(row).ids
        return ids[self._packed.maskable(ids)]

    def _pair_weight(self, rows: StepRows) -> float:
        """Masked tokens over pairs, so that the step's division by masked tokens leaves the mean over pairs.

        It takes all rows of the step, so it is kept for the step's other micro-batches.
        """
        if self._weighed is not None and self._weighed[0] is rows:
            return self._weighed[1]
        pairs = 0
        for number in rows.rows.tolist():
            ids, starts = self._packed.row(number)
            pairs += int((np.diff(np.append(starts, len(ids))) >= FEWEST_TOKENS).sum())
        weight = self.count(rows) / max(1, pairs)
        self._weighed = rows, weight
        return weight

    def _share(self, rows: StepRows) -> float:
        return EVALUATION_SHARE if rows.step is None else share_at(rows.step, self._mask_share)

    def _continuing(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_] | None:
        return None if self._continues is None else self._continues[ids]

    def row_ids(self, rows: StepRows, members: Sequence[int]) -> list[str]:
        """``EPOCH/ROW`` of each packed row."""
        return [f"{rows.epochs[member]}/{rows.rows[member]}" for member in members]

    def loss_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        """Summed cross-entropy over masked positions, and over pairs as much as they weigh."""
        logits_MV, logits_D2 = self._logits(model, batch)
        loss = functional.cross_entropy(logits_MV, batch["labels"], reduction="sum")
        if logits_D2 is not None:
            pairs = functional.cross_entropy(logits_D2, batch["is_other"], ignore_index=NO_PAIR, reduction="sum")
            loss = loss + batch["pair_weight"] * pairs
        weight: torch.Tensor = batch["weight"]
        return loss * weight

    def counts(self, model: Any, batch: Batch) -> torch.Tensor:
        """Summed loss, masked tokens, right predictions; with pairs their loss, number, and right answers."""
        logits_MV, logits_D2 = self._logits(model, batch)
        found = _counted(logits_MV, batch["labels"])
        if logits_D2 is not None:
            found += _counted(logits_D2, batch["is_other"])
        weight: torch.Tensor = batch["weight"]
        return torch.stack(found) * weight.double()

    def _logits(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self._separator is None:
            return masked_logits(model, batch["documents"]).float(), None
        logits_MV, logits_D2 = pretraining_logits(model, batch["documents"], batch["masked"], batch["firsts"])
        return logits_MV.float(), logits_D2.float()

    def metrics(self, counts: Sequence[float]) -> dict[str, float]:
        """``validation_loss`` (nats a masked token) and ``masked_accuracy``; with pairs ``next_sentence_loss`` and ``_accuracy``."""
        loss, masked, right, *pairs = counts
        found = {"validation_loss": loss / max(1.0, masked), "masked_accuracy": right / max(1.0, masked)}
        if pairs:
            found |= {"next_sentence_loss": pairs[0] / max(1.0, pairs[1]), "next_sentence_accuracy": pairs[2] / max(1.0, pairs[1])}
        return found


class _Made(NamedTuple):
    """A packed row before masking."""

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    types: npt.NDArray[np.int8] = np.zeros(0, np.int8)
    is_other: npt.NDArray[np.int64] = np.zeros(0, np.int64)


def _sizes(starts: npt.NDArray[np.int32], tokens: int, longest: int) -> npt.NDArray[np.int64]:
    """Tokens of each document of a row, those longer than ``longest`` in pieces."""
    sizes = np.diff(np.append(starts, tokens)).astype(np.int64)
    if len(sizes) and sizes.max() <= longest:
        return sizes
    return np.concatenate([np.diff(np.append(np.arange(0, size, longest), size)) for size in sizes.tolist()]).astype(np.int64)


def _counted(logits: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """Summed loss, labels, and right predictions, fp64."""
    loss = functional.cross_entropy(logits, labels, ignore_index=NO_PAIR, reduction="sum")
    right = (logits.argmax(dim=1) == labels).sum()
    return [loss.double(), (labels != NO_PAIR).sum().double(), right.double()]
