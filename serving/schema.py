"""What travels over HTTP: requests and answers of ``/v1/classify`` and ``/v1/models``. Imports pydantic only; the client uses it too."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationInfo, field_validator


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TextInput(_Message):
    """One text, written as an object."""

    text: StrictStr
    """The text."""


class ClassifyRequest(_Message):
    """A request to ``POST /v1/classify``."""

    inputs: StrictStr | TextInput | Annotated[list[StrictStr | TextInput], Field(min_length=1)]
    """One text, or a list of texts."""
    model: StrictStr | None = None
    """The served model: NAME, NAME/version or the REF it was started with; anything else is a 404. Default: what is served."""
    top_k: Annotated[StrictInt, Field(ge=1)] | None = None
    """Return this many labels, best first. Default: all."""
    raw_scores: StrictBool = False
    """Return logits instead of probabilities."""
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

    def texts(self) -> list[str]:
        """The inputs as a list of texts."""
        inputs = self.inputs if isinstance(self.inputs, list) else [self.inputs]
        return [item if isinstance(item, str) else item.text for item in inputs]


class ScoredLabel(_Message):
    """A label and its score."""

    label: str
    score: float


class ClassifyResult(_Message):
    """The answer for one text, at the text's place in the request."""

    labels: list[ScoredLabel]
    """Best first."""
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
    labels: list[str]
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
