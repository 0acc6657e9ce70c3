"""Spans and durations of gRPC calls on both sides, unary and streaming, with the W3C context on the wire."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from predictive_scheduling import semconv
from predictive_scheduling.incoming import context_of
from predictive_scheduling.wrapping import Handler, WrappingInterceptor


def _durations(meters: metrics.MeterProvider, side: str) -> metrics.Histogram:
    return meters.get_meter(__name__).create_histogram(
        f"rpc.{side}.call.duration",
        unit="s",
        description=f"Duration of gRPC calls, as their {side} saw them",
        explicit_bucket_boundaries_advisory=semconv.RPC_BUCKETS,
    )


def _start(tracer: trace.Tracer, method: str, kind: SpanKind, context: Any = None) -> trace.Span:
    name = method.lstrip("/")
    attributes = {semconv.RPC_SYSTEM: "grpc", semconv.RPC_METHOD: name}
    return tracer.start_span(name, context=context, kind=kind, attributes=attributes)


@dataclass(frozen=True)
class _Call:
    """A call under way: its span, and when it began."""

    span: trace.Span
    method: str
    durations: metrics.Histogram
    started: float = field(default_factory=time.perf_counter)

    def finish(self, code: grpc.StatusCode, *, failed: bool) -> None:
        """End the span and record how long it took."""
        self.span.set_attribute(semconv.RPC_STATUS, code.name)
        attributes = {semconv.RPC_SYSTEM: "grpc", semconv.RPC_METHOD: self.method, semconv.RPC_STATUS: code.name}
        if failed:
            attributes[semconv.ERROR_TYPE] = code.name
            self.span.set_attribute(semconv.ERROR_TYPE, code.name)
            self.span.set_status(Status(StatusCode.ERROR))
        context = trace.set_span_in_context(self.span)
        self.durations.record(time.perf_counter() - self.started, attributes, context)
        self.span.end()


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


class ServerTracing(WrappingInterceptor):
    """One SERVER span and one duration a call, a child of the caller's span; it is current while the handler runs."""

    def __init__(self, provider: trace.TracerProvider, meters: metrics.MeterProvider | None = None) -> None:
        """Trace with ``provider``, measure with ``meters``."""
        super().__init__()
        self._tracer = provider.get_tracer(__name__)
        self._durations = _durations(meters or metrics.NoOpMeterProvider(), "server")

    def wrap(self, handler: Handler, method: str) -> Handler:
        """Wrap the two kinds of handler that our services have; others, and gRPC's own services, pass untouched."""
        if method.startswith("/grpc."):
            return handler
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary, method), handler.request_deserializer, handler.response_serializer
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream, method), handler.request_deserializer, handler.response_serializer
            )
        return handler

    def _begin(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> _Call:
        span = _start(self._tracer, method, SpanKind.SERVER, context_of(context.invocation_metadata() or ()))
        return _Call(span, method.lstrip("/"), self._durations)

    def _unary(self, behavior: Any, method: str) -> Any:
        async def traced(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            call = self._begin(method, context)
            try:
                with trace.use_span(call.span, record_exception=False, set_status_on_exception=False):
                    return await behavior(request, context)
            finally:
                self._end(call, context)

        return traced

    def _stream(self, behavior: Any, method: str) -> Any:
        async def traced(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            call = self._begin(method, context)
            try:
                with trace.use_span(call.span, record_exception=False, set_status_on_exception=False):
                    async with aclosing(behavior(request, context)) as responses:
                        async for response in responses:
                            yield response
            finally:
                self._end(call, context)

        return traced

    @staticmethod
    def _end(call: _Call, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        code = grpc.StatusCode.CANCELLED if context.cancelled() else _code(context.code())
        call.finish(code, failed=code in _SERVER_FAULTS)


_CODES: dict[Any, grpc.StatusCode] = {known.value[0]: known for known in grpc.StatusCode}


def _code(code: Any) -> grpc.StatusCode:
    """The status a handler has set: nothing or 0 is OK; grpc.aio may hold the number instead of the constant."""
    return code if isinstance(code, grpc.StatusCode) else _CODES.get(code, grpc.StatusCode.OK)


class UnaryClientTracing(grpc.aio.UnaryUnaryClientInterceptor):
    """One CLIENT span a unary call; the context travels in the metadata."""

    def __init__(self, provider: trace.TracerProvider, meters: metrics.MeterProvider | None = None) -> None:
        """Trace with ``provider``, measure with ``meters``."""
        self._tracer = provider.get_tracer(__name__)
        self._durations = _durations(meters or metrics.NoOpMeterProvider(), "client")

    async def intercept_unary_unary(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        """Start the span, send its context, and end it with the call's status."""
        span = _start(self._tracer, _method(details), SpanKind.CLIENT)
        measured = _Call(span, _method(details).lstrip("/"), self._durations)
        code = grpc.StatusCode.CANCELLED
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                call = await continuation(_with_context(details), request)
            code = await call.code()
        finally:
            measured.finish(code, failed=code is not grpc.StatusCode.OK)
        return call


class StreamClientTracing(grpc.aio.UnaryStreamClientInterceptor):
    """One CLIENT span a server-streaming call, from its start to its last message."""

    def __init__(self, provider: trace.TracerProvider, meters: metrics.MeterProvider | None = None) -> None:
        """Trace with ``provider``, measure with ``meters``."""
        self._tracer = provider.get_tracer(__name__)
        self._durations = _durations(meters or metrics.NoOpMeterProvider(), "client")

    async def intercept_unary_stream(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        """Start the span and send its context; the span ends with the last message."""
        span = _start(self._tracer, _method(details), SpanKind.CLIENT)
        measured = _Call(span, _method(details).lstrip("/"), self._durations)
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            call = await continuation(_with_context(details), request)
        return self._responses(call, measured)

    @staticmethod
    async def _responses(call: Any, measured: _Call) -> AsyncIterator[Any]:
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
            measured.finish(code, failed=code is not grpc.StatusCode.OK)


def client_tracing(
    provider: trace.TracerProvider, meters: metrics.MeterProvider | None = None
) -> list[grpc.aio.ClientInterceptor]:
    """Return the interceptors of a traced and measured channel."""
    return [UnaryClientTracing(provider, meters), StreamClientTracing(provider, meters)]


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
