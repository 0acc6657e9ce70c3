"""The port that Envoy talks to: external processor and access logs, apart from the scheduler's own API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from predictive_scheduling.credentials import TlsFiles, bind
from scheduler_service.gateway.access_logs import follow
from scheduler_service.gateway.budgets import GatewayBudgets
from scheduler_service.gateway.envoy_messages import (
    ACCESS_LOGS,
    PROCESSOR,
    ProcessingRequest,
    ProcessingResponse,
    StreamAccessLogsMessage,
    StreamAccessLogsResponse,
)
from scheduler_service.gateway.processor import process
from scheduler_service.gateway.settling import Settling

_MOST_BYTES = 64 << 20
_Part = TypeVar("_Part")


class GatewayServer:
    """Serves gateways at ``address``, with TLS where ``tls`` says so. ``port``: where it listens; 0 before."""

    def __init__(self, budgets: GatewayBudgets, settling: Settling, address: str, tls: TlsFiles | None = None) -> None:
        """Register the services; ``start`` listens."""
        self._address, self._tls, self._settling = address, tls, settling
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", _MOST_BYTES)])
        self.port = 0

        def serve(handler: Callable[[_Part, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]], part: _Part) -> Any:
            async def handle(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
                return await handler(part, context)

            return handle

        processor = grpc.stream_stream_rpc_method_handler(
            serve(process, budgets), ProcessingRequest.FromString, ProcessingResponse.SerializeToString
        )
        logs = grpc.stream_unary_rpc_method_handler(
            serve(follow, settling), StreamAccessLogsMessage.FromString, StreamAccessLogsResponse.SerializeToString
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(PROCESSOR, {"Process": processor}),
                grpc.method_handlers_generic_handler(ACCESS_LOGS, {"StreamAccessLogs": logs}),
            )
        )

    async def start(self) -> None:
        """Listen. Raises RuntimeError where the address is taken, OSError without the files of TLS."""
        self.port = bind(self._server, self._address, self._tls)
        await self._server.start()

    async def stop(self) -> None:
        """Refuse new requests, which Envoy lets pass, and end at once: streams that wait have said all they had to.

        What the access log told last of other schedulers' grants still gets to them.
        """
        await self._server.stop(0.5)
        await self._settling.exchange()
