"""Receives the services' telemetry over OTLP/gRPC, so that the demo can leave it as files that a person can open."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class _Signal:
    """Keeps what is exported of one signal, as OTLP/JSON."""

    def __init__(self, field: str, response: Any) -> None:
        """Keep ``field`` of every request."""
        self._field, self._response = field, response
        self.kept: list[dict[str, Any]] = []

    async def Export(self, request: Any, context: Any) -> Any:
        """Take a batch."""
        self.kept += [MessageToDict(resource) for resource in getattr(request, self._field)]
        return self._response()


class OtlpReceiver:
    """Keeps every exported span, metric and log record in memory, as OTLP/JSON."""

    def __init__(self) -> None:
        """Receive nothing yet; ``start`` listens."""
        self._traces = _Signal("resource_spans", trace_service_pb2.ExportTraceServiceResponse)
        self._metrics = _Signal("resource_metrics", metrics_service_pb2.ExportMetricsServiceResponse)
        self._logs = _Signal("resource_logs", logs_service_pb2.ExportLogsServiceResponse)
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
        registered: list[tuple[Any, _Signal]] = [
            (trace_service_pb2_grpc.add_TraceServiceServicer_to_server, self._traces),
            (metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server, self._metrics),
            (logs_service_pb2_grpc.add_LogsServiceServicer_to_server, self._logs),
        ]
        for register, signal in registered:
            register(signal, self._server)

    async def start(self) -> str:
        """Listen on a free port of loopback; returns the endpoint for ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        """Stop listening."""
        await self._server.stop(1.0)

    def spans(self) -> list[dict[str, Any]]:
        """Every span received, with its service's name as ``service``."""
        found = []
        for resource_spans in self._traces.kept:
            attributes = resource_spans.get("resource", {}).get("attributes", [])
            service = next((a["value"]["stringValue"] for a in attributes if a["key"] == "service.name"), "")
            for scope in resource_spans.get("scopeSpans", []):
                found += [{**span, "service": service} for span in scope.get("spans", [])]
        return found

    def write(self, folder: Path) -> list[Path]:
        """Write ``trace.json``, ``metrics.json``, ``logs.json`` (OTLP/JSON), and ``traces.html``; returns them."""
        documents = {
            "trace.json": {"resourceSpans": self._traces.kept},
            "metrics.json": {"resourceMetrics": self._metrics.kept},
            "logs.json": {"resourceLogs": self._logs.kept},
        }
        for name, document in documents.items():
            (folder / name).write_text(json.dumps(document))
        page = (files("predictive_scheduling_cli.demo") / "traces_page.html").read_text()
        inside = json.dumps(documents["trace.json"]).replace("</", "<\\/")  # no text may end the script it stands in
        (folder / "traces.html").write_text(page.replace("/*DATA*/", inside))
        return [folder / name for name in (*documents, "traces.html")]
