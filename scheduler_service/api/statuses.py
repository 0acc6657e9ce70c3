"""One table of errors: the gRPC code, the HTTP status and OpenAI's kind of each, and the details that go with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc

from scheduler_service.domain import (
    BackendUnavailableError,
    DeadlineError,
    InvalidRequestError,
    OverloadedError,
    PermissionDeniedError,
    PreconditionError,
    QuotaExceededError,
    SchedulingError,
    SlowReaderError,
    UnauthenticatedError,
    UnknownModelError,
)


@dataclass(frozen=True)
class Row:
    """What an error is called: by gRPC, by HTTP, and by OpenAI's clients (``error.type``)."""

    code: grpc.StatusCode
    http: int
    kind: str


# The row of an error is that of the nearest class above it.
TABLE: Mapping[type[Exception], Row] = {
    InvalidRequestError: Row(grpc.StatusCode.INVALID_ARGUMENT, 400, "invalid_request_error"),
    PreconditionError: Row(grpc.StatusCode.FAILED_PRECONDITION, 400, "invalid_request_error"),
    UnknownModelError: Row(grpc.StatusCode.FAILED_PRECONDITION, 404, "invalid_request_error"),
    UnauthenticatedError: Row(grpc.StatusCode.UNAUTHENTICATED, 401, "authentication_error"),
    PermissionDeniedError: Row(grpc.StatusCode.PERMISSION_DENIED, 403, "permission_error"),
    QuotaExceededError: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "rate_limit_error"),
    OverloadedError: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "rate_limit_error"),
    SlowReaderError: Row(grpc.StatusCode.DEADLINE_EXCEEDED, 408, "timeout_error"),
    DeadlineError: Row(grpc.StatusCode.DEADLINE_EXCEEDED, 504, "timeout_error"),
    BackendUnavailableError: Row(grpc.StatusCode.UNAVAILABLE, 503, "server_error"),
    Exception: Row(grpc.StatusCode.INTERNAL, 500, "server_error"),
}


@dataclass(frozen=True)
class Status:
    """How a call ends that failed.

    ``fields``: which of the request's are wrong, and why. ``retry_seconds``: when it may be tried again; ``None`` for
    never as it is. ``quota``: whose quota is used up, and what it is.
    """

    row: Row
    message: str
    fields: Sequence[tuple[str, str]] = ()
    retry_seconds: float | None = None
    quota: tuple[str, str] | None = None


def status_of(error: Exception) -> Status:
    """The status of an error. What is none of ``domain``'s is a fault of ours, of which callers learn nothing more."""
    row = next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
    match error:
        case InvalidRequestError():
            return Status(row, str(error), fields=error.broken)
        case QuotaExceededError():
            subject = f"tenant:{error.tenant}"
            quota = (subject, error.description)
            return Status(row, f"{subject}: {error.description}", retry_seconds=error.retry_seconds, quota=quota)
        case OverloadedError() | BackendUnavailableError():
            return Status(row, str(error), retry_seconds=error.retry_seconds)
        case SchedulingError():
            return Status(row, str(error))
        case _:
            return Status(row, "a fault of the scheduler; its log has the reason")
