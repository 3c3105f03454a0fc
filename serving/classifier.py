"""START HERE: a served model is a verified bundle that still gives the scores its exporter recorded.

``Classifier.open`` resolves a REF, loads it, warms it up and repeats the bundle's golden requests; a model that answers otherwise than
where it was trained is refused before it can answer anybody. Knows no Ray and no HTTP.

Read next: ``host.py``, which keeps one loaded model and swaps it for the next champion.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from encoder.classifier import SequenceClassifier, Text, Tokens
from foundation.bundle import Bundle
from foundation.errors import BundleError
from foundation.references import Resolved, resolve
from foundation.registry import Registry
from serving.errors import InvalidRequest, ModelFailed

# N texts, C classes
GOLDEN_TOLERANCE = 1e-4


@dataclass(frozen=True)
class LabelScore:
    """A label and its score: a probability, the value of a regression, or a logit where raw scores were asked for."""

    label: str
    score: float


@dataclass(frozen=True)
class Result:
    """The answer for one text."""

    labels: tuple[LabelScore, ...]
    """Best first; those that ``top_k`` and ``threshold`` left."""
    predicted: tuple[str, ...]
    """What the model decides: the best label; of several those that reach their thresholds, best first; of a regression nothing."""
    tokens: int
    """Tokens that the model read, special tokens counted."""
    truncated: bool
    """Whether the text was longer than the model takes."""


@dataclass(frozen=True)
class Identity:
    """Which model this is, as answers and metrics name it."""

    name: str
    version: str
    digest: str
    """SHA-256 of the bundle's manifest, which names the whole bundle."""


class Classifier:
    """A loaded, checked classifier. ``tokenize`` may be called from any thread; ``logits`` from one at a time."""

    def __init__(self, model: SequenceClassifier, bundle: Bundle, identity: Identity) -> None:
        self.model = model
        self.bundle = bundle
        self.identity = identity
        self.labels = model.labels
        self.task = model.task
        self.max_length = model.max_length
        # A fast tokenizer keeps its truncation setting inside; two threads in it at once raise "Already borrowed".
        self._tokenizer_lock = threading.Lock()

    @classmethod
    def open(cls, ref: str, *, threads: int | None = None, registry: Registry | None = None) -> Classifier:
        """Resolve, verify, load, warm up and check a model.

        Args:
            ref: NAME@alias, NAME/version or a bundle's folder.
            threads: torch's threads in this process; None leaves them.
            registry: Where names are looked up; default: the home's.

        Raises:
            BundleError: Not a bundle, an altered one, or one that no longer gives its recorded scores.
            RegistryError: No such model, version or alias.
            EncoderError: It names nothing, or nothing that classifies.
        """
        return cls.load(resolve_bundle(ref, registry), threads=threads)

    @classmethod
    def load(cls, resolved: Resolved, *, threads: int | None = None) -> Classifier:
        """Load what ``resolve_bundle`` found; see ``open``."""
        if resolved.bundle is None:
            raise _not_a_bundle(resolved.ref)
        model = SequenceClassifier.load(resolved.bundle.path, threads=threads)
        classifier = cls(model, resolved.bundle, identity_of(resolved))
        classifier.warm_up()
        classifier.check_golden()
        return classifier

    @property
    def thresholds(self) -> dict[str, float] | None:
        """Of a multi-label model: the probability from which each label applies."""
        if self.task != "multi_label":
            return None
        # Through text: the shortest number that is the same float32.
        return {label: float(str(least)) for label, least in zip(self.labels, self.model.thresholds_C, strict=True)}

    def tokenize(self, texts: Sequence[Text], *, truncate: bool = True) -> list[Tokens]:
        """Tokenise texts and pairs.

        Raises:
            InvalidRequest: ``truncate`` is false and a text is longer than the model takes; names it and both lengths.
        """
        with self._tokenizer_lock:
            rows = self.model.tokenize(texts, truncate=truncate)
        if not truncate:
            for index, row in enumerate(rows):
                if row.length > self.max_length:
                    raise InvalidRequest(
                        f"text {index} has {row.length} tokens, the model takes {self.max_length}; shorten it or send truncate=true",
                        field=f"inputs.{index}",
                    )
        return rows

    def logits(self, rows: Sequence[Tokens]) -> np.ndarray:
        """Logits (N, C) of tokenised rows in one padded forward pass."""
        return self.model.logits([row.ids for row in rows], [row.types for row in rows])

    def results(
        self,
        logits_NC: np.ndarray,
        rows: Sequence[Tokens],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        raw_scores: bool = False,
    ) -> list[Result]:
        """Turn logits into labels, best first.

        Args:
            logits_NC: One row a text.
            rows: The tokenised texts.
            top_k: Keep this many labels; None keeps all.
            threshold: Keep labels that score at least this much, in the scores that are returned.
            raw_scores: Return logits instead of probabilities.

        Raises:
            ModelFailed: A score is not finite.
        """
        if not np.isfinite(logits_NC).all():
            raise ModelFailed("the model gave a score that is not a finite number")
        probabilities_NC = self.model.probabilities(logits_NC)
        scores_NC = logits_NC if raw_scores else probabilities_NC
        results = []
        for scores_C, predicted, row in zip(scores_NC, self._predicted(probabilities_NC), rows, strict=True):
            # A stable sort: equal scores keep the order of the labels, so an answer never depends on its neighbours.
            order = np.argsort(-scores_C, kind="stable")[:top_k]
            kept = [LabelScore(self.labels[index], float(scores_C[index])) for index in order]
            if threshold is not None:
                kept = [item for item in kept if item.score >= threshold]
            results.append(Result(tuple(kept), predicted, len(row), row.truncated))
        return results

    def score(self, texts: Sequence[Text]) -> tuple[np.ndarray, list[tuple[str, ...]]]:
        """Scores (N, C) of many texts, in batches sorted by length, and what each is decided to be (``Result.predicted``)."""
        scores_NC = self.model.score(texts)
        return scores_NC, self._predicted(scores_NC)

    def _predicted(self, scores_NC: np.ndarray) -> list[tuple[str, ...]]:
        if self.task == "regression":
            return [()] * len(scores_NC)
        if self.task == "single_label":
            return [(self.labels[index],) for index in self.model.decide(scores_NC)]
        applies_NC, order_NC = self.model.decide(scores_NC), np.argsort(-scores_NC, axis=1, kind="stable")
        return [tuple(self.labels[i] for i in order_C if applies_C[i]) for applies_C, order_C in zip(applies_NC, order_NC, strict=True)]

    def classify(
        self,
        texts: Sequence[Text],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        raw_scores: bool = False,
        truncate: bool = True,
    ) -> list[Result]:
        """Classify texts in one forward pass: the plain way, without a queue. Arguments and errors as in ``tokenize`` and ``results``."""
        if not texts:
            return []
        rows = self.tokenize(texts, truncate=truncate)
        logits_NC = self.logits(rows)
        return self.results(logits_NC, rows, top_k=top_k, threshold=threshold, raw_scores=raw_scores)

    def warm_up(self) -> None:
        """Run a short and a longest row, so that the first request finds kernels chosen and memory in place."""
        (row,) = self.tokenize(["warm up"])
        filler = row.ids[len(row.ids) // 2]
        longest = [*row.ids, *[filler] * max(0, self.max_length - len(row.ids))][: self.max_length]
        self.logits([row])
        self.logits([replace(row, ids=longest)])

    def check_golden(self) -> None:
        """Repeat the bundle's recorded requests.

        Raises:
            BundleError: A score differs from the recorded one by more than ``GOLDEN_TOLERANCE``, or of large values that share.
        """
        for request in self.bundle.manifest.golden:
            (result,) = self.classify([request.input])
            found = {item.label: item.score for item in result.labels}
            if set(found) != set(request.scores):
                raise BundleError(
                    f"{self.bundle.path}: answers the labels {sorted(found)}, recorded were {sorted(request.scores)}; export it again"
                )
            for label, wanted in request.scores.items():
                if not abs(found[label] - wanted) <= GOLDEN_TOLERANCE * max(1.0, abs(wanted)):
                    raise BundleError(
                        f"{self.bundle.path}: golden request {request.input!r}: {label} scores {found[label]:.6f}, not {wanted:.6f}; "
                        "this machine or its software computes otherwise than the one that exported the bundle"
                    )


def resolve_bundle(ref: str, registry: Registry | None = None) -> Resolved:
    """Resolve a REF that must be a bundle.

    Raises:
        BundleError: It is not a bundle, or an altered one.
        RegistryError: No such model, version or alias.
        EncoderError: It names nothing.
    """
    resolved = resolve(ref, registry)
    if resolved.bundle is None:
        raise _not_a_bundle(ref)
    if resolved.bundle.manifest.task == "masked_lm":
        raise BundleError(f"{ref}: is a {resolved.bundle.manifest.task} bundle, not a classifier; `raybert finetune` makes one from it")
    return resolved


def identity_of(resolved: Resolved) -> Identity:
    """Name and version as clients see them; a folder's version is the start of its digest."""
    if resolved.bundle is None:
        raise _not_a_bundle(resolved.ref)
    digest = resolved.bundle.digest
    if resolved.version is not None:
        return Identity(resolved.version.name, str(resolved.version.version), digest)
    return Identity(Path(resolved.location).name, digest[:12], digest)


def _not_a_bundle(ref: str) -> BundleError:
    return BundleError(
        f"{ref}: not a bundle, it has no raybert.json; serving takes what `raybert finetune` and `raybert models import` write"
    )
