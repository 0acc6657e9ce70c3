"""OpenTelemetry set-up that both services share: traces, metrics and logs, off unless somewhere to send them is known.

The standard variables rule. ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``…_TRACES_ENDPOINT``, ``…_METRICS_ENDPOINT``,
``…_LOGS_ENDPOINT``) switches a signal on, ``OTEL_EXPORTER_OTLP_PROTOCOL`` (or one per signal) chooses ``grpc`` or
``http/protobuf``, ``OTEL_TRACES_EXPORTER=none`` and its like switch one off, ``OTEL_SDK_DISABLED=true`` all of them.
``OTEL_TRACES_SAMPLER`` and ``OTEL_TRACES_SAMPLER_ARG`` sample, ``OTEL_METRIC_EXPORT_INTERVAL`` paces. All is sent
from threads of the SDK: an exporter that fails or hangs slows no request, and what it cannot send is dropped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from predictive_scheduling.log_export import OtlpLogHandler

_EXPORTERS = {
    ("traces", "grpc"): "opentelemetry.exporter.otlp.proto.grpc.trace_exporter:OTLPSpanExporter",
    ("traces", "http/protobuf"): "opentelemetry.exporter.otlp.proto.http.trace_exporter:OTLPSpanExporter",
    ("metrics", "grpc"): "opentelemetry.exporter.otlp.proto.grpc.metric_exporter:OTLPMetricExporter",
    ("metrics", "http/protobuf"): "opentelemetry.exporter.otlp.proto.http.metric_exporter:OTLPMetricExporter",
    ("logs", "grpc"): "opentelemetry.exporter.otlp.proto.grpc._log_exporter:OTLPLogExporter",
    ("logs", "http/protobuf"): "opentelemetry.exporter.otlp.proto.http._log_exporter:OTLPLogExporter",
}


@dataclass(frozen=True)
class Telemetry:
    """What a service reports with. ``scraped``: the reader behind a metrics page, where one is served."""

    tracers: trace.TracerProvider = field(default_factory=trace.NoOpTracerProvider)
    meters: metrics.MeterProvider = field(default_factory=metrics.NoOpMeterProvider)
    scraped: InMemoryMetricReader | None = None
    log_handler: OtlpLogHandler | None = None

    def shut_down(self) -> None:
        """Send what is still to be sent, and stop."""
        if self.log_handler is not None:
            logging.getLogger().removeHandler(self.log_handler)
            self.log_handler.shut_down()
        for provider in (self.tracers, self.meters):
            if isinstance(provider, (TracerProvider, MeterProvider)):
                provider.shutdown()


def from_environment(
    service_name: str, version: str, environ: Mapping[str, str] = os.environ, *, scraped: bool = False
) -> Telemetry:
    """Return what the environment asks for; ``scraped`` keeps metrics for a page even where none are sent.

    Log lines go out as they are written by ``logging``, with the trace that they belong to. Raises ValueError for a
    protocol that is neither ``grpc`` nor ``http/protobuf``.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        environ = {}
    resource = Resource.create(
        {"service.name": environ.get("OTEL_SERVICE_NAME") or service_name, "service.version": version}
    )
    tracers: trace.TracerProvider = trace.NoOpTracerProvider()
    if (spans := _exporter("traces", environ)) is not None:
        tracers = TracerProvider(resource=resource)
        tracers.add_span_processor(BatchSpanProcessor(spans))
    readers: list[MetricReader] = []
    page = InMemoryMetricReader() if scraped else None
    if page is not None:
        readers.append(page)
    if (measurements := _exporter("metrics", environ)) is not None:
        readers.append(PeriodicExportingMetricReader(measurements))
    meters = MeterProvider(readers, resource) if readers else metrics.NoOpMeterProvider()
    handler = None
    if (records := _exporter("logs", environ)) is not None:
        provider = LoggerProvider(resource)
        provider.add_log_record_processor(BatchLogRecordProcessor(records))
        handler = OtlpLogHandler(provider)
        logging.getLogger().addHandler(handler)
    return Telemetry(tracers, meters, page, handler)


def _exporter(signal: str, environ: Mapping[str, str]) -> Any:
    """The exporter of a signal, or ``None`` where it is off; imported late, since each costs start-up time."""
    name = signal.upper()
    endpoint = environ.get(f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint or environ.get(f"OTEL_{name}_EXPORTER", "otlp").lower() == "none":
        return None
    protocol = environ.get(f"OTEL_EXPORTER_OTLP_{name}_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = protocol or "grpc"  # also for an empty one, which by OpenTelemetry's rules is none
    if (signal, protocol) not in _EXPORTERS:
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol!r} is neither grpc nor http/protobuf")
    module, _, kind = _EXPORTERS[signal, protocol].partition(":")
    return getattr(import_module(module), kind)()


def current_trace_id() -> str:
    """Return the current trace's id as 32 hexadecimal digits, or an empty string outside a recorded trace."""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else ""


def add_event(name: str) -> None:
    """Add an event to the current span, unless it has ended: a caller may have left its generation to others."""
    span = trace.get_current_span()
    if span.is_recording():
        span.add_event(name)
