"""OpenTelemetry set-up that both services share: off unless an OTLP endpoint is configured.

The standard variables rule: ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``…_TRACES_ENDPOINT``) switches tracing on,
``OTEL_EXPORTER_OTLP_PROTOCOL`` chooses ``grpc`` or ``http/protobuf``, ``OTEL_SDK_DISABLED=true`` switches it off.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def tracer_provider(service_name: str, version: str, environ: Mapping[str, str] = os.environ) -> trace.TracerProvider:
    """Return a provider that exports by OTLP where an endpoint is configured, else one that does nothing.

    Raises ValueError for a protocol that is neither ``grpc`` nor ``http/protobuf``.
    """
    disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or not any(environ.get(name) for name in _ENDPOINTS):
        return trace.NoOpTracerProvider()
    resource = Resource.create(
        {"service.name": environ.get("OTEL_SERVICE_NAME", service_name), "service.version": version}
    )
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(_exporter(environ)))
    return provider


def _exporter(environ: Mapping[str, str]) -> SpanExporter:
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    # Imported late: each exporter costs start-up time, and only one is used.
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
            OTLPSpanExporter as HttpSpanExporter,
        )

        return HttpSpanExporter()
    raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol!r} is neither grpc nor http/protobuf")


def shut_down(provider: trace.TracerProvider) -> None:
    """Flush what is still to be exported."""
    if isinstance(provider, TracerProvider):
        provider.shutdown()


def current_trace_id() -> str:
    """Return the current trace's id as 32 hexadecimal digits, or an empty string outside a recorded trace."""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else ""
