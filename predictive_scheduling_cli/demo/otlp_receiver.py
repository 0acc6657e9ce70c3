"""Receives the services' traces over OTLP/gRPC, so that the demo can leave them as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class OtlpReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every exported span in memory, as OTLP/JSON."""

    def __init__(self) -> None:
        """Receive nothing yet; ``start`` listens."""
        self._resource_spans: list[dict[str, Any]] = []
        self._server = grpc.aio.server()
        register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        register(self, self._server)

    async def start(self) -> str:
        """Listen on a free port of loopback; returns the endpoint for ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        """Stop listening."""
        await self._server.stop(1.0)

    async def Export(self, request: Any, context: Any) -> Any:
        """Take a batch of spans."""
        self._resource_spans += [MessageToDict(spans) for spans in request.resource_spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self) -> list[dict[str, Any]]:
        """Every span received, with its service's name as ``service``."""
        found = []
        for resource_spans in self._resource_spans:
            attributes = resource_spans.get("resource", {}).get("attributes", [])
            service = next((a["value"]["stringValue"] for a in attributes if a["key"] == "service.name"), "")
            for scope in resource_spans.get("scopeSpans", []):
                found += [{**span, "service": service} for span in scope.get("spans", [])]
        return found

    def write(self, path: Path) -> None:
        """Write everything as one OTLP/JSON document."""
        path.write_text(json.dumps({"resourceSpans": self._resource_spans}))
