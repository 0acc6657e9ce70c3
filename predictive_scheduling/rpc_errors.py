"""gRPC errors with google.rpc details, for servers: which field, when to retry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import grpc
import grpc.aio
import protovalidate
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

_validator = protovalidate.Validator()
_Context = grpc.aio.ServicerContext[Any, Any]

# Clients take 8 KiB of trailers, all statuses together; beyond, they see RESOURCE_EXHAUSTED in place of ours.
_MOST_FAULTS = 8
_MOST_CHARACTERS = 200
_SMALL_BYTES = 16_384  # of a request whose faults are all looked for: it takes 12 µs for every 2 bytes


def violations(request: Message) -> list[tuple[str, str]]:
    """Return (field path, what is wrong) for the constraints of the proto that ``request`` breaks.

    At most eight of them, and of a large request the first alone: one of millions of faults must stop no loop.
    """
    broken = _validator.collect_violations(request, fail_fast=True)
    if broken and request.ByteSize() <= _SMALL_BYTES:
        broken = _validator.collect_violations(request)
    found = []
    for violation in broken[:_MOST_FAULTS]:
        path = ""
        for element in violation.proto.field.elements if violation.proto.field else ():
            path += f".{element.field_name}"
            if element.subscript is not None:
                path += f"[{element.subscript.value}]"
        found.append((path.lstrip("."), violation.proto.message))
    return found


async def abort_invalid(
    context: _Context, broken: Iterable[tuple[str, str]], code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT
) -> NoReturn:
    """End the call with BadRequest details for (field, description) pairs; what is long in them is cut."""
    faults = [
        error_details_pb2.BadRequest.FieldViolation(field=_cut(name), description=_cut(description))
        for name, description in broken
    ]
    message = "; ".join(f"{fault.field}: {fault.description}" for fault in faults)
    await _abort(context, code, message, error_details_pb2.BadRequest(field_violations=faults))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


async def abort_retry(context: _Context, code: grpc.StatusCode, message: str, retry_seconds: float) -> NoReturn:
    """End the call with RetryInfo details: RESOURCE_EXHAUSTED or UNAVAILABLE, to be tried again later."""
    await _abort(context, code, message, _retry_info(retry_seconds))


def _retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(int(seconds * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)


async def abort_quota(context: _Context, subject: str, description: str, retry_seconds: float) -> NoReturn:
    """End the call with RESOURCE_EXHAUSTED, QuotaFailure and RetryInfo: whose quota is used up, when to come back."""
    violation = error_details_pb2.QuotaFailure.Violation(subject=subject, description=description)
    quota = error_details_pb2.QuotaFailure(violations=[violation])
    message = f"{subject}: {description}"
    await _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, message, quota, _retry_info(retry_seconds))


async def require_valid(context: _Context, request: Message) -> None:
    """End the call with INVALID_ARGUMENT where ``request`` breaks a constraint of its proto."""
    if broken := violations(request):
        await abort_invalid(context, broken)


async def _abort(context: _Context, code: grpc.StatusCode, message: str, *details: Message) -> NoReturn:
    packed = [any_pb2.Any() for _ in details]
    for item, detail in zip(packed, details, strict=True):
        item.Pack(detail)
    status = rpc_status.to_status(status_pb2.Status(code=code.value[0], message=message, details=packed))
    await context.abort(status.code, status.details, tuple(status.trailing_metadata))
