"""A gRPC server's life, the same for both services: health, reflection, readiness, and a drain on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from predictive_scheduling.credentials import TlsFiles, bind
from predictive_scheduling.interceptors import ServerTracing
from predictive_scheduling.listening import Scarcity, listens
from predictive_scheduling.malformed import RefuseMalformed
from predictive_scheduling.metrics_page import MetricsPage
from predictive_scheduling.page_access import PageAccess
from predictive_scheduling.running_calls import CountCalls, RunningCalls
from predictive_scheduling.service_settings import ServiceSettings
from predictive_scheduling.telemetry import Telemetry

LIVENESS = "liveness"

# Calls that core has accepted and Python has not yet taken. Core's own limit, 1,000 and at random up to 3,000, ends
# the rest of a burst with CANCELLED; so many are refused one by one, with a reason, within core's 30 seconds.
_MOST_UNTAKEN = 16_384
_ABORT_SECONDS = 1.0  # for the statuses of calls that were ended

log = logging.getLogger(__name__)


@dataclass
class Serving:
    """A server that is set up but not started.

    ``names``: the full names of its services, for health and reflection. ``drain_seconds``: how long running calls may
    go on after SIGTERM. ``also_drains``: what else stops then, within as long, such as an HTTP front.
    ``lame_duck_seconds``: how long it still serves every call after health checks got NOT_SERVING: gRPC ends calls
    that reach a server as it shuts down with CANCELLED, which clients do not retry, so clients must have left.
    ``calls``: what is under way; calls that outlast the drain end with UNAVAILABLE and RetryInfo.

    Health is answered for ``""`` and each of ``names`` (NOT_SERVING before and while draining), and for ``liveness``,
    which stays SERVING as long as the process answers. ``health_address``: a second, plain port that answers health
    alone, since probes speak no TLS.
    """

    address: str
    names: Sequence[str]
    drain_seconds: float
    interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
    lame_duck_seconds: float = 0.0
    with_reflection: bool = True
    reuse_port: bool = False
    max_message_bytes: int = 16 << 20
    tls: TlsFiles | None = None
    metrics: MetricsPage | None = None
    health_address: str = ""
    health_port: int = 0
    port: int = 0
    server: grpc.aio.Server = field(init=False)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    refuses: bool = False
    calls: RunningCalls = field(default_factory=RunningCalls)
    also_drains: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    _health: health.aio.HealthServicer = field(default_factory=health.aio.HealthServicer)
    _health_server: grpc.aio.Server | None = None

    @classmethod
    def by_settings(cls, settings: ServiceSettings, name: str, telemetry: Telemetry) -> Serving:
        """Set up the server of the service ``name`` as its settings say, every call traced and measured."""
        page = None
        if settings.metrics_listen and telemetry.scraped is not None:
            access = PageAccess(settings.pages_token.get_secret_value())
            page = MetricsPage(telemetry.scraped, settings.metrics_listen, access)
        return cls(
            settings.listen,
            [name],
            settings.drain_seconds,
            interceptors=[ServerTracing(telemetry.tracers, telemetry.meters), RefuseMalformed()],
            lame_duck_seconds=settings.lame_duck_seconds,
            with_reflection=settings.reflection,
            reuse_port=settings.reuse_port,
            tls=settings.tls,
            metrics=page,
            health_address=settings.health_listen,
        )

    def __post_init__(self) -> None:
        """Create the server; services are registered on ``server`` before ``start``."""
        options = [
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.so_reuseport", int(self.reuse_port)),
            ("grpc.server.max_pending_requests", _MOST_UNTAKEN),
            ("grpc.server.max_pending_requests_hard_limit", _MOST_UNTAKEN),
        ]
        interceptors = [*self.interceptors, CountCalls(self.calls)]
        self.server = grpc.aio.server(interceptors=interceptors, options=options)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        if self.with_reflection:
            known = (*self.names, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(known, self.server)

    async def start(self) -> None:
        """Bind and serve; not ready yet. Raises ListenError where an address is taken, or a file of TLS not there."""
        with listens("listen", self.address):
            self.port = bind(self.server, self.address, self.tls)
        Scarcity().watch(asyncio.get_running_loop())
        if self.metrics is not None:
            self.metrics.start()
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        if self.health_address:
            self._health_server = grpc.aio.server()
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._health_server)
            with listens("health_listen", self.health_address):
                self.health_port = bind(self._health_server, self.health_address, None)
            await self._health_server.start()
        await self.server.start()
        log.info("listening on %s", self.address if self.address.startswith("unix:") else f"port {self.port}")

    async def ready(self) -> None:
        """Tell health checks that calls are welcome."""
        await self._set(health_pb2.HealthCheckResponse.SERVING)

    async def run_until_signal(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; where the caller is cancelled instead, stop at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.draining.set)
        try:
            await self.draining.wait()
            await self.drain()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """End at once, whatever was started; no server may outlive its event loop."""
        await asyncio.gather(self.server.stop(None), *(stop() for stop in self.also_drains))
        if self._health_server is not None:
            await self._health_server.stop(None)
        if self.metrics is not None:
            await asyncio.to_thread(self.metrics.stop)

    async def drain(self) -> None:
        """Turn health to NOT_SERVING, serve what was sent, then refuse new calls and let running ones end.

        All but the lame duck takes ``drain_seconds`` at most, and a second more in which the last calls get their
        status.
        """
        self.draining.set()
        log.info("draining for at most %g s", self.drain_seconds)
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)
        await asyncio.sleep(self.lame_duck_seconds)
        loop = asyncio.get_running_loop()
        end = loop.time() + self.drain_seconds
        await self.calls.quiet(self.drain_seconds / 2)
        self.refuses = True
        ending = loop.call_at(end, self.calls.end)
        grace = max(0.0, end - loop.time()) + _ABORT_SECONDS
        await asyncio.gather(self.server.stop(grace), *(stop() for stop in self.also_drains))
        ending.cancel()

    async def _set(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for name in ("", *self.names):
            await self._health.set(name, status)
