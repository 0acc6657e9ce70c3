"""Where an HTTP front listens: so many connections and no more, heads that come in time, certificates as gRPC asks.

aiohttp waits for a request's head as long as a client likes. Here a connection whose first head is not whole in time is
closed, by the clock that began when it was made, however steadily it trickles; later requests of the same connection
are under aiohttp's own keep-alive limit.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.typedefs import Middleware

from predictive_scheduling.credentials import Renewals, TlsFiles
from predictive_scheduling.listening import listening

log = logging.getLogger(__name__)

# aiohttp's own, without its error for each malformed request: anybody could fill the log.
SERVER_LOG = logging.getLogger(f"{__name__}.aiohttp")
_MALFORMED = (HttpProcessingError, web.RequestPayloadError)
SERVER_LOG.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], _MALFORMED)))

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class HttpLimits:
    """``connections`` at once; seconds for a request's head, for its body, and for a client to take what is written."""

    connections: int = 2048
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    write_seconds: float = 60.0
    body_bytes: int = 4 << 20
    keep_alive_seconds: float = 75.0


class GuardedServer:
    """An HTTP server that answers ``routes``, by method and path, and nothing else; within ``limits``."""

    def __init__(
        self,
        routes: Mapping[tuple[str, str], Handler],
        limits: HttpLimits,
        *,
        guard: Middleware,
        tls: TlsFiles | None = None,
        **runner: Any,
    ) -> None:
        """Put ``guard`` around every handler, that of unknown paths too. ``runner``: parameters of ``web.AppRunner``.

        ``tls``: the certificate to serve with, and whom clients' must be signed by; ``None`` for plain HTTP.
        """
        self._limits, self._tls = limits, tls
        app = web.Application(client_max_size=limits.body_bytes, middlewares=[self._arrived, guard])
        _add_routes(app, routes)
        self._runner = web.AppRunner(app, logger=SERVER_LOG, **runner)
        self._site: _GuardedSite | None = None
        self.port = 0

    async def start(self, address: str) -> None:
        """Listen on ``host:port``. Raises OSError where the address is taken, or a file of TLS cannot be read."""
        await self._runner.setup()
        self._site = _GuardedSite(self._runner, address, self._limits, self._tls)
        await self._site.start()
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening, and let running requests end; those that take too long are cancelled."""
        await self._runner.cleanup()

    @web.middleware
    async def _arrived(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._site is not None:
            self._site.arrived(request.transport)
        return await handler(request)


def _add_routes(app: web.Application, routes: Mapping[tuple[str, str], Handler]) -> None:
    """Serve ``routes``, by method and path; anything else is 404 or 405.

    All of it by an answer of ours to ``Expect``: aiohttp's own fails where that header is no text.
    """

    async def unknown(request: web.Request) -> web.StreamResponse:
        methods = [method for method, path in routes if path == request.path]
        raise web.HTTPMethodNotAllowed(request.method, methods) if methods else web.HTTPNotFound

    for (method, path), handler in routes.items():
        app.router.add_route(method, path, handler, expect_handler=_expect)
    app.router.add_route("*", "/{path:.*}", unknown, expect_handler=_expect)


async def _expect(request: web.Request) -> None:
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


class _GuardedSite(web.BaseSite):
    """Listens for ``runner``, which is set up, on ``host:port``. Call ``arrived`` for every head of a request."""

    def __init__(self, runner: web.BaseRunner, address: str, limits: HttpLimits, tls: TlsFiles | None = None) -> None:
        """Serve TLS where ``tls`` is given; clients then need a certificate where its ``client_ca`` is."""
        context: ssl.SSLContext | None = None
        self._renew: Callable[[], None] | None = None
        if tls is not None:
            renewals, context = Renewals(tls), _server_context(tls)
            self._renew = partial(renewals.read, partial(_load, context, tls))
        super().__init__(runner, ssl_context=context)
        self._address, self._limits, self._tls = address, limits, tls
        self._open: dict[asyncio.BaseTransport, _Connection] = {}
        self._full = False

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"{'http' if self._tls is None else 'https'}://{self._address}"

    async def start(self) -> None:
        """Listen. Raises OSError where the address is taken."""
        await super().start()
        self._server = await asyncio.get_running_loop().create_server(
            self._connection,
            sock=listening(self._address),
            ssl=self._ssl_context,
            ssl_handshake_timeout=None if self._ssl_context is None else self._limits.head_seconds,
            backlog=self._backlog,
        )

    def arrived(self, transport: asyncio.BaseTransport | None) -> None:
        """The head of a connection's request is whole."""
        if transport is not None and (connection := self._open.get(transport)) is not None:
            connection.in_time()

    def _connection(self) -> asyncio.BaseProtocol:
        if self._renew is not None:  # who comes now sees a renewed certificate
            self._renew()
        serve = self._runner.server
        if serve is None:  # it has just been stopped
            return _Refused()
        if len(self._open) >= self._limits.connections:
            if not self._full:
                log.warning("%d HTTP connections are open, more are closed", len(self._open))
            self._full = True
            return _Refused()
        self._full = False
        return _Connection(serve(), self._open, self._limits.head_seconds)


def _server_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 and above with these files, client certificates required where they name who signs them.

    Raises OSError for a file that cannot be read (``ssl.SSLError`` is one).
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.load_cert_chain(files.cert, files.key)
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)


class _Refused(asyncio.Protocol):
    """A connection beyond the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()


class _Connection(asyncio.Protocol):
    """Passes a connection's events on to aiohttp's own protocol, and closes it where its first head is late."""

    def __init__(
        self, inner: asyncio.Protocol, others: dict[asyncio.BaseTransport, _Connection], head_seconds: float
    ) -> None:
        self._inner, self._others, self._head_seconds = inner, others, head_seconds
        self._late: asyncio.TimerHandle | None = None
        self._transport: asyncio.BaseTransport | None = None

    def in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._others[transport] = self
        self._transport = transport
        abort = transport.abort if isinstance(transport, asyncio.WriteTransport) else transport.close
        self._late = asyncio.get_running_loop().call_later(self._head_seconds, abort)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.in_time()
        if self._transport is not None:
            self._others.pop(self._transport, None)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
