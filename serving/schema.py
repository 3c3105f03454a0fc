"""What travels over HTTP: requests and answers of ``/v1/classify`` and ``/v1/models``. Imports pydantic only; the client uses it too."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationInfo, field_validator


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TextInput(_Message):
    """One text, or a pair of texts, written as an object."""

    text: StrictStr
    """The text."""
    text_pair: StrictStr | None = None
    """A second text, read together with the first. Models with `takes_pairs` were trained on pairs; others read both all the same."""

    def plain(self) -> str | tuple[str, str]:
        """The text, or both."""
        return self.text if self.text_pair is None else (self.text, self.text_pair)


class ClassifyRequest(_Message):
    """A request to ``POST /v1/classify``."""

    inputs: StrictStr | TextInput | Annotated[list[StrictStr | TextInput], Field(min_length=1)]
    """One text or pair, or a list of them."""
    model: StrictStr | None = None
    """The served model: NAME, NAME/version or the REF it was started with; anything else is a 404. Default: what is served."""
    top_k: Annotated[StrictInt, Field(ge=1)] | None = None
    """Return this many labels, best first. Default: all."""
    raw_scores: StrictBool = False
    """Return logits instead of probabilities; a regression's values are its logits."""
    threshold: float | None = Field(None, allow_inf_nan=False)
    """Return only labels that score at least this much."""
    truncate: StrictBool = True
    """Cut texts that are longer than the model takes; false: refuse them with 422."""

    @field_validator("threshold")
    @classmethod
    def _is_a_probability(cls, threshold: float | None, info: ValidationInfo) -> float | None:
        if threshold is not None and not info.data.get("raw_scores") and not 0.0 <= threshold <= 1.0:
            raise ValueError(f"found {threshold}; scores are probabilities, so it lies between 0 and 1 (raw_scores lifts that)")
        return threshold

    def texts(self) -> list[str | tuple[str, str]]:
        """The inputs as a list of texts and pairs."""
        inputs = self.inputs if isinstance(self.inputs, list) else [self.inputs]
        return [item if isinstance(item, str) else item.plain() for item in inputs]


class ScoredLabel(_Message):
    """A label and its score."""

    label: str
    score: float


class ClassifyResult(_Message):
    """The answer for one text, at the text's place in the request."""

    labels: list[ScoredLabel]
    """Best first. A regression has one, whose score is the value."""
    predicted: list[str] = []
    """What the model decides, whatever `top_k` and `threshold` leave: the best label; of a multi-label model the labels that reach
    their own thresholds, best first, possibly none; of a regression nothing."""
    tokens: int
    """Tokens that the model read, special tokens counted."""
    truncated: bool
    """Whether the text was cut to the model's length."""


class Usage(_Message):
    """What the request cost."""

    texts: int
    tokens: int


class ClassifyResponse(_Message):
    """The answer of ``POST /v1/classify``."""

    model: str
    version: str
    """The registry's version; for a folder, the start of its SHA-256."""
    results: list[ClassifyResult]
    usage: Usage


class ModelCard(_Message):
    """One served model."""

    model: str
    version: str
    ref: str
    """The REF that the service follows."""
    digest: str
    """SHA-256 of the bundle's manifest."""
    task: str = "single_label"
    """single_label, multi_label or regression."""
    labels: list[str]
    thresholds: dict[str, float] | None = None
    """Of a multi-label model: the probability from which each label applies."""
    takes_pairs: bool = False
    """Whether the model was trained on pairs of texts."""
    max_length: int
    """Longest input in tokens."""
    run_id: str
    created: str
    metrics: dict[str, float]


class ModelList(_Message):
    """The answer of ``GET /v1/models``."""

    models: list[ModelCard]


class ErrorDetail(_Message):
    """Why there is no answer."""

    message: str
    type: str
    field: str | None = None


class ErrorResponse(_Message):
    """The body of every 4xx and 5xx."""

    error: ErrorDetail
