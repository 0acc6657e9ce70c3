"""Spans and durations of gRPC calls on both sides, unary and streaming, with the W3C context on the wire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from predictive_scheduling import semconv
from predictive_scheduling.incoming import context_of
from predictive_scheduling.wrapping import Handler, WrappingInterceptor, answering


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
class MeasuredCall:
    """A call under way: its span, and when it began."""

    span: trace.Span
    method: str
    durations: metrics.Histogram
    started: float = field(default_factory=time.perf_counter)

    server: bool = False

    def finish(self, code: grpc.StatusCode) -> None:
        """End the span and record how long it took."""
        failed = code in _SERVER_FAULTS if self.server else code is not grpc.StatusCode.OK
        attributes = {semconv.RPC_SYSTEM: "grpc", semconv.RPC_METHOD: self.method, semconv.RPC_STATUS: code.name}
        if failed:
            attributes[semconv.ERROR_TYPE] = code.name
        if self.span is trace.INVALID_SPAN:  # as most requests on a stream have
            self.durations.record(time.perf_counter() - self.started, attributes)
            return
        self.span.set_attribute(semconv.RPC_STATUS, code.name)
        if failed:
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


class StreamedCalls:
    """Measures the requests that share a stream as if each were a call of its own."""

    def __init__(
        self, method: str, kind: SpanKind, provider: trace.TracerProvider, meters: metrics.MeterProvider
    ) -> None:
        """Name them ``method`` (package.Service/Method); ``kind``: the side that this is, SERVER or CLIENT."""
        self._tracer, self._method, self._kind = provider.get_tracer(__name__), method, kind
        self._server = kind is SpanKind.SERVER
        self._durations = _durations(meters, "server" if self._server else "client")

    def begin(self, carrier: Mapping[str, str]) -> MeasuredCall:
        """Begin the request that brought ``carrier``; it has a span only where its caller has one."""
        span: trace.Span = trace.INVALID_SPAN
        if carrier:
            span = _start(self._tracer, self._method, self._kind, context_of(carrier.items()))
        return MeasuredCall(span, self._method, self._durations, server=self._server)

    def send(self, carrier: MutableMapping[str, str]) -> MeasuredCall:
        """Begin a request of the current span's, and write its context into ``carrier``; nothing where none records."""
        span: trace.Span = trace.INVALID_SPAN
        if trace.get_current_span().is_recording():
            span = _start(self._tracer, self._method, self._kind)
            propagate.inject(carrier, trace.set_span_in_context(span))
        return MeasuredCall(span, self._method, self._durations, server=self._server)


class ServerTracing(WrappingInterceptor):
    """One SERVER span and one duration a call, a child of the caller's span; it is current while the handler runs."""

    def __init__(self, provider: trace.TracerProvider, meters: metrics.MeterProvider | None = None) -> None:
        """Trace with ``provider``, measure with ``meters``."""
        super().__init__()
        self._tracer = provider.get_tracer(__name__)
        self._durations = _durations(meters or metrics.NoOpMeterProvider(), "server")

    def wrap(self, handler: Handler, method: str) -> Handler:
        """Wrap the two kinds of handler that our services have; others, and gRPC's own services, pass untouched."""
        if method.startswith("/grpc.") or handler.request_streaming:
            return handler
        return answering(
            handler,
            unary=lambda behavior: self._unary(behavior, method),
            stream=lambda behavior: self._stream(behavior, method),
        )

    @contextmanager
    def _call(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[trace.Span]:
        """Measure a call, from here to the end of the block; the span is not current in it."""
        span = _start(self._tracer, method, SpanKind.SERVER, context_of(context.invocation_metadata() or ()))
        call = MeasuredCall(span, method.lstrip("/"), self._durations, server=True)
        code = grpc.StatusCode.UNKNOWN
        try:
            yield span
            code = _code(context.code())
        except (asyncio.CancelledError, GeneratorExit):  # the caller has left, or its deadline has passed
            code = grpc.StatusCode.CANCELLED
            raise
        except BaseException:
            if (told := _code(context.code())) is not grpc.StatusCode.OK:
                code = told
            raise
        finally:
            call.finish(code)

    def _unary(self, behavior: Any, method: str) -> Any:
        async def traced(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            with self._call(method, context) as span, _current(span):
                return await behavior(request, context)

        return traced

    def _stream(self, behavior: Any, method: str) -> Any:
        async def traced(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            # A generator may be closed in another context than it ran in: grpc.aio drops those of cancelled calls, and
            # the loop closes them in a task of its own. So the span is current for each step, never across a yield.
            with self._call(method, context) as span:
                responses = behavior(request, context)
                try:
                    while True:
                        with _current(span):
                            try:
                                response = await anext(responses)
                            except StopAsyncIteration:
                                return
                        yield response
                finally:
                    with _current(span):
                        await responses.aclose()

        return traced


def _current(span: trace.Span) -> AbstractContextManager[trace.Span]:
    """Make a span the current one; an exception is recorded by its status only."""
    return trace.use_span(span, record_exception=False, set_status_on_exception=False)


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
        measured = MeasuredCall(span, _method(details).lstrip("/"), self._durations)
        code, call = grpc.StatusCode.CANCELLED, None
        try:
            with _current(span):
                call = await continuation(_with_context(details), request)
            code = await call.code()
        finally:
            if call is not None and code is grpc.StatusCode.CANCELLED:
                call.cancel()  # who waits here is gone, but the call itself would go on
            measured.finish(code)
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
        measured = MeasuredCall(span, _method(details).lstrip("/"), self._durations)
        with _current(span):
            call = await continuation(_with_context(details), request)
        return self._responses(call, measured)

    @staticmethod
    async def _responses(call: Any, measured: MeasuredCall) -> AsyncIterator[Any]:
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
            measured.finish(code)


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
