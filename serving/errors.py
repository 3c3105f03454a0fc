"""Why a request is not answered: each carries the HTTP status that it becomes. No HTTP framework is known here."""

from __future__ import annotations


class RequestError(Exception):
    """A request that gets no answer, and why.

    ``field`` names what in the request is wrong, where one part of it is.
    """

    status = 500
    kind = "internal"

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.field, self.retry_after_s)


def _rebuild(kind: type[RequestError], message: str, field: str | None, retry_after_s: float | None) -> RequestError:
    return kind(message, field=field, retry_after_s=retry_after_s)


class InvalidRequest(RequestError):
    """The body is not what the route takes."""

    status = 422
    kind = "validation"


class UnknownModel(RequestError):
    """The request names a model that is not served here."""

    status = 404
    kind = "unknown_model"


class TooLarge(RequestError):
    """Too many bytes or too many texts."""

    status = 413
    kind = "too_large"


class QueueFull(RequestError):
    """More tokens wait than the service accepts; ``retry_after_s`` says when to come back."""

    status = 429
    kind = "overloaded"


class DeadlineExceeded(RequestError):
    """The answer was not ready in time; the texts left the queue."""

    status = 504
    kind = "timeout"


class NotReady(RequestError):
    """No model is loaded yet, or the replica is shutting down."""

    status = 503
    kind = "not_ready"


class ModelFailed(RequestError):
    """The forward pass failed or gave numbers that are not finite."""

    status = 500
    kind = "model"
