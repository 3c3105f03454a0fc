"""START HERE: a sequence classifier from texts to scores and decisions. Used by evaluation, batch inference and serving alike.

One class of several, any number of several, or a number: ``task`` says which, by the model's ``problem_type``. Knows no Ray, no HTTP, no
training. A text scores the same alone and in a batch: padding is masked out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoder.batches import pad
from encoder.loading import load_tokenizer, quieten_transformers
from foundation.bundle import PROBLEM_TYPES, GoldenRequest, TaskKind, is_bundle, read_manifest
from foundation.errors import EncoderError, first_line

# B rows, T tokens, C classes
Text = str | tuple[str, str]
"""A text, or a pair of texts that are read together."""

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Tokens:
    """One tokenised text."""

    ids: list[int]
    truncated: bool
    length: int
    """Tokens before truncation, special tokens counted."""
    types: tuple[int, ...] = ()
    """Token types, where the model tells the texts of a pair apart by them; empty is all 0."""

    def __len__(self) -> int:
        return len(self.ids)


class SequenceClassifier:
    """A loaded classifier in evaluation mode.

    Args:
        model: transformers' sequence classifier.
        tokenizer: Its tokenizer.
        max_length: Longest input in tokens, special tokens counted.
        thresholds: Multi-label: the probability from which each label applies; ``DEFAULT_THRESHOLD`` for those not named.
        takes_pairs: Whether it was trained on pairs of texts. Pairs and single texts are scored either way.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, max_length: int, thresholds: Mapping[str, float] | None = None, takes_pairs: bool = False
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.takes_pairs = takes_pairs
        self.labels: tuple[str, ...] = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
        self.problem_type: str = model.config.problem_type or PROBLEM_TYPES["single_label"]
        found = thresholds or {}
        self.thresholds_C = np.array([found.get(label, DEFAULT_THRESHOLD) for label in self.labels], dtype=np.float32)
        # Of a pair; a tokenizer may make them for a model that has no use for them.
        self.has_types = getattr(model.config, "type_vocab_size", 0) > 1 and "token_type_ids" in signature(model.forward).parameters
        self._pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    @property
    def task(self) -> TaskKind:
        """What it answers: one label, any number of labels, or a value."""
        return next(task for task, problem_type in PROBLEM_TYPES.items() if problem_type == self.problem_type)

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
        manifest = read_manifest(folder) if is_bundle(folder) else None
        if manifest and manifest.task == "masked_lm":
            raise EncoderError(
                f"{folder}: is a {manifest.task} bundle, not a classifier; `raybert finetune encoder={folder} …` makes one from it"
            )
        try:
            model = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=torch.float32, attn_implementation="sdpa")
        except (OSError, ValueError) as error:
            raise EncoderError(f"{folder}: could not be loaded as a classifier: {first_line(error)}") from None
        if manifest is None:
            return cls(model, tokenizer, max_length=min(int(tokenizer.model_max_length), 512))
        loaded = cls(model, tokenizer, max_length=manifest.max_length, thresholds=manifest.thresholds, takes_pairs=manifest.takes_pairs)
        if loaded.task != manifest.task:
            raise EncoderError(
                f"{folder}: raybert.json says {manifest.task}, config.json has problem_type {loaded.problem_type}; export the bundle again"
            )
        return loaded

    def tokenize(self, texts: Sequence[Text], *, truncate: bool = True) -> list[Tokens]:
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
        if second is None or not self.has_types or "token_type_ids" not in found:
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

    def score(self, texts: Sequence[Text], *, rows_per_batch: int = 32) -> np.ndarray:
        """Scores (B, C) of many texts, in batches sorted by length, returned in the order given."""
        rows = self.tokenize(texts)
        scores_BC = np.zeros((len(rows), len(self.labels)), dtype=np.float32)
        by_length = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
        for start in range(0, len(rows), rows_per_batch):
            chosen = by_length[start : start + rows_per_batch]
            logits_BC = self.logits([rows[index].ids for index in chosen], [rows[index].types for index in chosen])
            scores_BC[chosen] = self.probabilities(logits_BC)
        return scores_BC

    def decide(self, scores_BC: np.ndarray) -> np.ndarray:
        """What the scores mean, in the forms that labelled data has (``corpus/labels.py``).

        Returns:
            Of one label, its index (B,), int64. Of several, which apply (B, C), bool, each from its own threshold. Of a regression, the
            value (B,), float64.
        """
        if self.task == "multi_label":
            applies_BC: np.ndarray = scores_BC >= self.thresholds_C
            return applies_BC
        if self.task == "regression":
            value_B: np.ndarray = scores_BC[:, 0].astype(np.float64)
            return value_B
        best_B: np.ndarray = scores_BC.argmax(axis=1)
        return best_B

    def golden(self, texts: Sequence[Text]) -> tuple[GoldenRequest, ...]:
        """Texts with their scores, as a bundle records them."""
        found = []
        for text, scores_C in zip(texts, self.score(texts).tolist(), strict=True):
            first, second = (text, None) if isinstance(text, str) else text
            found.append(GoldenRequest(text=first, text_pair=second, scores=dict(zip(self.labels, scores_C, strict=True))))
        return tuple(found)
