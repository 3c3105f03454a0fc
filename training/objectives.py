"""What is learnt: rows of the data become batches, batches become summed losses and evaluation counts.

An objective knows data and model, nothing of steps, ranks or engines. Losses are sums; the loop divides by the step's own count.
Shapes: B rows, T tokens, M masked positions, D width, V vocabulary, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from corpus.labelled import LabelledSplit
from corpus.masks import BERT, LinearShare, Masking, mask_row, masked_counts, predicted_count, share_at
from corpus.order import StepRows
from corpus.shards import PackedRows
from encoder.batches import block_attention, document_layout, pad
from foundation.errors import EncoderError
from training.metrics import classification_metrics

Batch = dict[str, torch.Tensor]

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


class Classification:
    """Single-label classification with cross-entropy."""

    def __init__(self, token_ids: Sequence[Sequence[int]], split: LabelledSplit, *, classes: int, pad_id: int) -> None:
        self._token_ids = token_ids
        self._labels = np.asarray(split.labels)
        self._ids = split.ids
        self._classes = classes
        self._pad_id = pad_id
        self.rows = len(token_ids)

    def lengths(self, rows: StepRows) -> list[int]:
        """Tokens of each row."""
        return [len(self._token_ids[row]) for row in rows.rows]

    def count(self, rows: StepRows) -> float:
        """Rows."""
        return float(len(rows.rows))

    def batch(self, rows: StepRows, members: Sequence[int], weight: float) -> Batch:
        """ids_BT, mask_BT, labels_B and the weight."""
        chosen = rows.rows[list(members)]
        ids_BT, mask_BT = pad([self._token_ids[row] for row in chosen], self._pad_id)
        return {
            "input_ids": ids_BT,
            "attention_mask": mask_BT,
            "labels": torch.from_numpy(self._labels[chosen]).long(),
            "weight": torch.tensor(weight),
        }

    def row_ids(self, rows: StepRows, members: Sequence[int]) -> list[str]:
        """``EPOCH/ID`` of each row."""
        return [f"{rows.epochs[member]}/{self._ids[rows.rows[member]]}" for member in members]

    def loss_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        """Summed cross-entropy."""
        logits_BC = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return functional.cross_entropy(logits_BC.float(), batch["labels"], reduction="sum") * batch["weight"]

    def counts(self, model: Any, batch: Batch) -> torch.Tensor:
        """Summed loss, then the confusion matrix (true class by predicted class), flattened."""
        logits_BC = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
        loss = functional.cross_entropy(logits_BC, batch["labels"], reduction="sum").double()
        cells = batch["labels"] * self._classes + logits_BC.argmax(dim=1)
        confusion = torch.bincount(cells, minlength=self._classes**2).double()
        return torch.cat([loss.reshape(1), confusion]) * batch["weight"].double()

    def metrics(self, counts: Sequence[float]) -> dict[str, float]:
        """``validation_loss``, ``accuracy``, ``macro_f1``."""
        confusion = np.asarray(counts[1:]).reshape(self._classes, self._classes)
        return {"validation_loss": counts[0] / max(1.0, float(confusion.sum())), **classification_metrics(confusion)}


class MaskedLanguageModel:
    """Masked-token prediction on packed rows: attention and positions per document, logits only where a token was masked."""

    def __init__(
        self,
        packed: PackedRows,
        *,
        mask_share: float | LinearShare,
        seed: int,
        mask_id: int,
        pad_id: int,
        vocabulary: int,
        masking: Masking = BERT,
        continues: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """``continues`` (V,) says of each token whether it continues a word; given, whole words are masked."""
        self._packed = packed
        self._mask_share = mask_share
        self._masking, self._continues = masking, continues
        self._seed = seed
        self._mask_id, self._pad_id, self._vocabulary = mask_id, pad_id, vocabulary
        self.rows = len(packed)

    def lengths(self, rows: StepRows) -> list[int]:
        """Tokens of each packed row."""
        found: list[int] = self._packed.lengths(rows.rows).tolist()
        return found

    def count(self, rows: StepRows) -> float:
        """Masked tokens, known from the rows' lengths before any is masked."""
        share = self._share(rows)
        if self._continues is None and self._masking.predictions is None:
            return float(masked_counts(self._packed.maskable_counts(rows.rows), share).sum())
        total = 0
        for row in rows.rows.tolist():
            ids = self._packed.row(row).ids
            total += predicted_count(self._packed.maskable(ids), share, masking=self._masking, continues=self._continuing(ids))
        return float(total)

    def batch(self, rows: StepRows, members: Sequence[int], weight: float) -> Batch:
        """ids_BT after masking, document_BT, positions_BT, flat masked positions_M with their labels_M, and the weight."""
        chosen = list(members)
        numbers, epochs, share = rows.rows[chosen].tolist(), rows.epochs[chosen].tolist(), self._share(rows)
        packed = [self._packed.row(number) for number in numbers]
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
            for row, number, epoch in zip(packed, numbers, epochs, strict=True)
        ]
        ids_BT, _ = pad([row.ids for row in masked], self._pad_id)
        width = ids_BT.shape[1]
        document_BT, positions_BT = document_layout([row.starts for row in packed], [len(row.ids) for row in packed], width)
        return {
            "input_ids": ids_BT,
            "documents": document_BT,
            "position_ids": positions_BT,
            "masked": torch.from_numpy(np.concatenate([row.positions + line * width for line, row in enumerate(masked)])),
            "labels": torch.from_numpy(np.concatenate([row.labels for row in masked]).astype(np.int64)),
            "weight": torch.tensor(weight),
        }

    def _share(self, rows: StepRows) -> float:
        return EVALUATION_SHARE if rows.step is None else share_at(rows.step, self._mask_share)

    def _continuing(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_] | None:
        return None if self._continues is None else self._continues[ids]

    def row_ids(self, rows: StepRows, members: Sequence[int]) -> list[str]:
        """``EPOCH/ROW`` of each packed row."""
        return [f"{rows.epochs[member]}/{rows.rows[member]}" for member in members]

    def loss_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        """Summed cross-entropy over masked positions."""
        logits_MV = masked_logits(model, batch)
        return functional.cross_entropy(logits_MV.float(), batch["labels"], reduction="sum") * batch["weight"]

    def counts(self, model: Any, batch: Batch) -> torch.Tensor:
        """Summed loss, masked tokens, right predictions."""
        logits_MV = masked_logits(model, batch).float()
        loss = functional.cross_entropy(logits_MV, batch["labels"], reduction="sum")
        right = (logits_MV.argmax(dim=1) == batch["labels"]).sum()
        masked = torch.tensor(float(len(batch["labels"])), device=loss.device)
        return torch.stack([loss, masked, right.to(loss.dtype)]).double() * batch["weight"].double()

    def metrics(self, counts: Sequence[float]) -> dict[str, float]:
        """``validation_loss`` (nats a masked token) and ``masked_accuracy``."""
        loss, masked, right = counts
        return {"validation_loss": loss / max(1.0, masked), "masked_accuracy": right / max(1.0, masked)}


# Where each family keeps what turns hidden states into vocabulary logits.
_HEADS = {"bert": "cls", "roberta": "lm_head"}


def check_pretrainable(model_type: str, location: str) -> None:
    """Refuse a model family whose masked-language-model head is not known here."""
    if model_type not in _HEADS:
        raise EncoderError(f"{location}: pretraining knows the families {', '.join(_HEADS)}; this model's model_type is {model_type}")


def masked_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Vocabulary logits_MV at the masked positions of packed rows, each token attending to its own document only."""
    kind = model.config.model_type
    # RoBERTa counts positions from one past the padding id.
    offset = model.config.pad_token_id + 1 if kind == "roberta" else 0
    hidden_BTD = model.base_model(
        input_ids=batch["input_ids"],
        attention_mask=block_attention(batch["documents"]),
        position_ids=batch["position_ids"] + offset,
    ).last_hidden_state
    hidden_MD = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[batch["masked"]]
    logits: torch.Tensor = getattr(model, _HEADS[kind])(hidden_MD)
    return logits
