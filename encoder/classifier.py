"""START HERE: a sequence classifier from texts to probabilities. Used by evaluation, batch inference and serving alike.

Knows no Ray, no HTTP, no training. A text scores the same alone and in a batch: padding is masked out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoder.batches import pad
from encoder.loading import load_tokenizer, quieten_transformers
from foundation.bundle import is_bundle, read_manifest
from foundation.errors import EncoderError

# B rows, T tokens, C classes


@dataclass(frozen=True)
class Tokens:
    """One tokenised text."""

    ids: list[int]
    truncated: bool
    length: int
    """Tokens before truncation, special tokens counted."""
    types: tuple[int, ...] = ()
    """Token types, where the model tells the texts of a pair apart by them; empty is all 0."""


class SequenceClassifier:
    """A loaded classifier in evaluation mode."""

    def __init__(self, model: Any, tokenizer: Any, *, max_length: int) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.labels: tuple[str, ...] = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
        self.problem_type: str = model.config.problem_type or "single_label_classification"
        self._pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None) -> SequenceClassifier:
        """Load a bundle, or any Hugging Face sequence-classification folder.

        Args:
            folder: Its directory; a bundle is taken as verified (see ``foundation.references.resolve``).
            threads: torch's intra-op threads in this process; None leaves them.

        Raises:
            EncoderError: Not a classifier, or no tokenizer.
        """
        from transformers import AutoModelForSequenceClassification

        quieten_transformers()
        if threads is not None:
            torch.set_num_threads(threads)
        tokenizer = load_tokenizer(str(folder))
        if is_bundle(folder):
            manifest = read_manifest(folder)
            if manifest.task != "single_label":
                raise EncoderError(
                    f"{folder}: is a {manifest.task} bundle, not a classifier; `raybert finetune encoder={folder} …` makes one from it"
                )
            max_length = manifest.max_length
        else:
            max_length = min(int(tokenizer.model_max_length), 512)
        try:
            model = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=torch.float32, attn_implementation="sdpa")
        except (OSError, ValueError) as error:
            raise EncoderError(f"{folder}: could not be loaded as a classifier: {str(error).splitlines()[0]}") from None
        return cls(model, tokenizer, max_length=max_length)

    def tokenize(self, texts: Sequence[str | tuple[str, str]], *, truncate: bool = True) -> list[Tokens]:
        """Tokenise texts or text pairs, special tokens added.

        Args:
            texts: Single texts, or (text, text pair).
            truncate: Cut to ``max_length`` (pairs: the longer of the two first); otherwise rows may be longer than the model takes.
        """
        if not texts:
            return []
        firsts = [text if isinstance(text, str) else text[0] for text in texts]
        pairs = [None if isinstance(text, str) else text[1] for text in texts]
        if any(pair is not None for pair in pairs) and any(pair is None for pair in pairs):
            return [self.tokenize([text], truncate=truncate)[0] for text in texts]
        second = None if pairs[0] is None else [str(pair) for pair in pairs]
        # Lengths come from the whole text, so that a caller can be told how much was cut.
        whole = self._encoded(firsts, second, truncation=False)
        over = [index for index, (ids, _) in enumerate(whole) if len(ids) > self.max_length]
        kept = list(whole)
        if truncate and over:
            chosen = None if second is None else [second[index] for index in over]
            for index, row in zip(over, self._encoded([firsts[index] for index in over], chosen, truncation=True), strict=True):
                kept[index] = row
        return [
            Tokens(ids, truncate and len(full) > self.max_length, len(full), types)
            for (ids, types), (full, _) in zip(kept, whole, strict=True)
        ]

    def _encoded(self, firsts: list[str], second: list[str] | None, *, truncation: bool) -> list[tuple[list[int], tuple[int, ...]]]:
        """Ids and types of each row."""
        limit = {"max_length": self.max_length} if truncation else {}
        found = self.tokenizer(firsts, second, truncation=truncation, padding=False, return_attention_mask=False, verbose=False, **limit)
        rows = [list(ids) for ids in found["input_ids"]]
        if second is None or "token_type_ids" not in found:
            return [(ids, ()) for ids in rows]
        return [(ids, tuple(types)) for ids, types in zip(rows, found["token_type_ids"], strict=True)]

    def logits(self, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> np.ndarray:
        """Logits (B, C), float32, of token-id rows; one forward pass, padded to the longest row.

        Args:
            rows: Token ids.
            types: ``Tokens.types`` of the rows, needed for pairs only; an empty one is all 0.
        """
        ids_BT, mask_BT = pad(rows, self._pad_id)
        more = {}
        if types is not None and any(types):
            more["token_type_ids"] = torch.zeros_like(ids_BT)
            for index, row in enumerate(types):
                more["token_type_ids"][index, : len(row)] = torch.as_tensor(row, dtype=torch.long)
        with torch.inference_mode():
            output = self.model(input_ids=ids_BT, attention_mask=mask_BT, **more)
        result: np.ndarray = output.logits.float().numpy()
        return result

    def probabilities(self, logits_BC: np.ndarray) -> np.ndarray:
        """Scores (B, C) by problem type: softmax, sigmoid for multi-label and for a single logit, the value itself for regression."""
        if self.problem_type == "multi_label_classification" or (self.problem_type != "regression" and logits_BC.shape[1] == 1):
            scores: np.ndarray = 1.0 / (1.0 + np.exp(-logits_BC.astype(np.float64)))
            return scores.astype(np.float32)
        if self.problem_type == "regression":
            return logits_BC
        shifted = logits_BC.astype(np.float64) - logits_BC.max(axis=1, keepdims=True)
        exponent = np.exp(shifted)
        softmax: np.ndarray = (exponent / exponent.sum(axis=1, keepdims=True)).astype(np.float32)
        return softmax

    def score(self, texts: Sequence[str | tuple[str, str]], *, rows_per_batch: int = 32) -> np.ndarray:
        """Scores (B, C) of many texts, in batches sorted by length, returned in the order given."""
        rows = self.tokenize(texts)
        scores_BC = np.zeros((len(rows), len(self.labels)), dtype=np.float32)
        by_length = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
        for start in range(0, len(rows), rows_per_batch):
            chosen = by_length[start : start + rows_per_batch]
            logits_BC = self.logits([rows[index].ids for index in chosen], [rows[index].types for index in chosen])
            scores_BC[chosen] = self.probabilities(logits_BC)
        return scores_BC
