"""The port that Envoy talks to: external processor and access logs, apart from the scheduler's own API."""

from __future__ import annotations

import asyncio
import contextlib
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
from scheduler_service.gateway.processor import Exchange, process
from scheduler_service.gateway.settling import Settling

_MOST_BYTES = 64 << 20
_Part = TypeVar("_Part")


class GatewayServer:
    """Serves gateways at ``address``, with TLS where ``tls`` says so. ``port``: where it listens; 0 before.

    ``patience``: for how many seconds ``stop`` waits for responses that pass through here; asked then.
    """

    def __init__(
        self,
        budgets: GatewayBudgets,
        settling: Settling,
        address: str,
        tls: TlsFiles | None = None,
        patience: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Register the services; ``start`` listens."""
        self._address, self._tls, self._settling = address, tls, settling
        self._patience = patience
        self._returning: set[Exchange] = set()
        self._one_ended = asyncio.Event()
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", _MOST_BYTES)])
        self.port = 0

        def serve(handler: Callable[[_Part, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]], part: _Part) -> Any:
            async def handle(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
                return await handler(part, context)

            return handle

        async def exchange(budgets: GatewayBudgets, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            try:
                await process(budgets, context, self._returning)
            finally:
                self._one_ended.set()

        processor = grpc.stream_stream_rpc_method_handler(
            serve(exchange, budgets), ProcessingRequest.FromString, ProcessingResponse.SerializeToString
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
        """Let responses that pass through here end, refuse new requests, which Envoy lets pass, and end.

        Streams that only wait have said all they had to. A response that is cut off here would go on with the usage
        that its caller did not ask for. What the access log told last of other schedulers' grants still gets to them.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience()):
                while self._returning:
                    self._one_ended.clear()
                    await self._one_ended.wait()
        await self._server.stop(0.5)
        await self._settling.exchange()
