"""A server interceptor: bytes that are no message of the method end with INVALID_ARGUMENT, not with an error of ours.

grpc.aio parses a request before the handler is called, and answers UNKNOWN, with a stack trace in the log, where that
fails: anybody could fill the log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from predictive_scheduling.rpc_errors import abort_invalid
from predictive_scheduling.wrapping import Handler, WrappingInterceptor, answering

_OURS = ("/predictive_scheduling.", "/inference.")
_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class _Malformed:
    """Stands in for a request that could not be parsed."""

    reason: str


class RefuseMalformed(WrappingInterceptor):
    """Wraps our methods that take one request."""

    def wrap(self, handler: Handler, method: str) -> Handler:
        """Return the handler with a parser that cannot fail; health and reflection, which stream in, as they are."""
        if not method.startswith(_OURS) or handler.request_streaming or handler.request_deserializer is None:
            return handler
        return _guarded(handler)


def _guarded(handler: Any) -> Handler:
    def parse(raw: bytes) -> Any:
        try:
            return handler.request_deserializer(raw)
        except DecodeError as error:
            return _Malformed(str(error))

    return answering(handler, unary=_unary, stream=_stream, request_deserializer=parse)


def _unary(behavior: Any) -> Any:
    async def answer(request: Any, context: _Context) -> Any:
        await _refuse(request, context)
        return await behavior(request, context)

    return answer


def _stream(behavior: Any) -> Any:
    async def answer(request: Any, context: _Context) -> AsyncIterator[Any]:
        await _refuse(request, context)
        async with aclosing(behavior(request, context)) as responses:
            async for response in responses:
                yield response

    return answer


async def _refuse(request: Any, context: _Context) -> None:
    if isinstance(request, _Malformed):
        await abort_invalid(context, [("request", f"is no message of this method: {request.reason}")])
