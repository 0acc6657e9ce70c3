"""Tracing of gRPC calls on both sides, unary and streaming, with the W3C context on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from predictive_scheduling import semconv

_Details = grpc.HandlerCallDetails
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def _start(tracer: trace.Tracer, method: str, kind: SpanKind, context: Any = None) -> trace.Span:
    name = method.lstrip("/")
    attributes = {semconv.RPC_SYSTEM: "grpc", semconv.RPC_METHOD: name}
    return tracer.start_span(name, context=context, kind=kind, attributes=attributes)


def _finish(span: trace.Span, code: grpc.StatusCode, *, failed: bool) -> None:
    span.set_attribute(semconv.RPC_STATUS, code.name)
    if failed:
        span.set_attribute(semconv.ERROR_TYPE, code.name)
        span.set_status(Status(StatusCode.ERROR))
    span.end()


_SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)  # the codes that OpenTelemetry's RPC conventions count as errors of a server


class ServerTracing(grpc.aio.ServerInterceptor):
    """One SERVER span a call, a child of the caller's span; it is current while the handler runs."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        """Trace with ``provider``."""
        self._tracer = provider.get_tracer(__name__)

    async def intercept_service(
        self, continuation: Callable[[_Details], Awaitable[_Handler | None]], details: _Details
    ) -> _Handler | None:
        """Wrap the two kinds of handler that our services have; others pass untouched."""
        handler = await continuation(details)
        if handler is None or details.method.startswith("/grpc."):
            return handler
        carrier = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary, details.method, carrier),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream, details.method, carrier),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return handler

    def _unary(self, behavior: Any, method: str, carrier: dict[str, str]) -> Any:
        async def traced(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            span = _start(self._tracer, method, SpanKind.SERVER, propagate.extract(carrier))
            try:
                with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                    return await behavior(request, context)
            finally:
                self._end(span, context)

        return traced

    def _stream(self, behavior: Any, method: str, carrier: dict[str, str]) -> Any:
        async def traced(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            span = _start(self._tracer, method, SpanKind.SERVER, propagate.extract(carrier))
            try:
                with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                    async for response in behavior(request, context):
                        yield response
            finally:
                self._end(span, context)

        return traced

    @staticmethod
    def _end(span: trace.Span, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        code = grpc.StatusCode.CANCELLED if context.cancelled() else _code(context.code())
        _finish(span, code, failed=code in _SERVER_FAULTS)


def _code(code: Any) -> grpc.StatusCode:
    """The status a handler has set: nothing or 0 is OK; grpc.aio may hold the number instead of the constant."""
    if isinstance(code, grpc.StatusCode):
        return code
    return next((known for known in grpc.StatusCode if known.value[0] == code), grpc.StatusCode.OK)


class UnaryClientTracing(grpc.aio.UnaryUnaryClientInterceptor):
    """One CLIENT span a unary call; the context travels in the metadata."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        """Trace with ``provider``."""
        self._tracer = provider.get_tracer(__name__)

    async def intercept_unary_unary(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        """Start the span, send its context, and end it with the call's status."""
        span = _start(self._tracer, _method(details), SpanKind.CLIENT)
        code = grpc.StatusCode.CANCELLED
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                call = await continuation(_with_context(details), request)
            code = await call.code()
        finally:
            _finish(span, code, failed=code is not grpc.StatusCode.OK)
        return call


class StreamClientTracing(grpc.aio.UnaryStreamClientInterceptor):
    """One CLIENT span a server-streaming call, from its start to its last message."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        """Trace with ``provider``."""
        self._tracer = provider.get_tracer(__name__)

    async def intercept_unary_stream(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        """Start the span and send its context; the span ends with the last message."""
        span = _start(self._tracer, _method(details), SpanKind.CLIENT)
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            call = await continuation(_with_context(details), request)
        return self._responses(call, span)

    @staticmethod
    async def _responses(call: Any, span: trace.Span) -> AsyncIterator[Any]:
        code = grpc.StatusCode.CANCELLED
        try:
            async for response in call:
                yield response
            code = await call.code()
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise
        finally:
            if code is grpc.StatusCode.CANCELLED:
                call.cancel()
            _finish(span, code, failed=code is not grpc.StatusCode.OK)


def client_tracing(provider: trace.TracerProvider) -> list[grpc.aio.ClientInterceptor]:
    """Return the interceptors of a traced channel."""
    return [UnaryClientTracing(provider), StreamClientTracing(provider)]


def _method(details: grpc.aio.ClientCallDetails) -> str:
    method = details.method
    return method.decode() if isinstance(method, bytes) else method


def _with_context(details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    metadata = grpc.aio.Metadata(*(details.metadata or ()), *carrier.items())
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )
