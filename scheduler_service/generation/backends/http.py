"""What every HTTP backend shares: one session, streams of events, bounds in time and size."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

import aiohttp
from yarl import URL

from scheduler_service.domain import BackendUnavailableError, PreconditionError
from scheduler_service.generation.backends.bounds import CallBounds
from scheduler_service.generation.backends.faults import ServerFault, ServerFaults, http_error, retry_seconds
from scheduler_service.generation.backends.sse import SseParser
from scheduler_service.generation.backends.wire import Wire, message_of
from scheduler_service.generation.engine_signals import Signals, signals_of
from scheduler_service.generation.forcing import Call

_LONGEST_BODY = 4 << 20
_LONGEST_REFUSAL = 4096
_REFUSAL_SECONDS = 2.0
_CLOSING_SECONDS = 0.5
_NO_ROUTE = frozenset({401, 403, 404, 405})

T = TypeVar("T", bound=Wire)


class HttpServer:
    """One LLM server over HTTP; ``token`` is sent as a bearer token where set.

    ``idle_seconds``: how long a call may go on without a token (keep-alives do not count), and how long anything else
    may take. ``reuse_connections``: off for servers that close a connection after a stream while announcing to keep it
    (llama.cpp). User and password of ``url`` are sent as it asks, and are no part of the attribute ``url``.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        idle_seconds: float = 60.0,
        max_connections: int = 1024,
        reuse_connections: bool = True,
    ) -> None:
        """Remember where the server is; ``open`` connects. Raises ValueError for what is no HTTP address."""
        self.url, self._authorization = _address(url, token)
        self._idle_seconds = idle_seconds
        self._max_connections = max_connections
        self._reuse_connections = reuse_connections
        self._session: aiohttp.ClientSession | None = None
        self._faults = ServerFaults(self.url)
        self.translated = self._faults.translated

    async def open(self) -> None:
        """Create the session; connections are made as they are needed."""
        # A compressed stream could be a thousand times longer than what was received.
        headers = {"Accept-Encoding": "identity"}
        if self._authorization:
            headers["Authorization"] = self._authorization
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._max_connections, force_close=not self._reuse_connections),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0),
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def bounds(self, call: Call) -> CallBounds:
        """What a call to this server may bring."""
        return CallBounds(call, self._idle_seconds)

    async def get(self, path: str, kind: type[T]) -> T:
        """Return a JSON object. Raises BackendUnavailableError for anything else, with the address, for operators."""
        try:
            with self.translated():
                async with (
                    asyncio.timeout(self._idle_seconds),
                    self._opened().get(self.url + path, allow_redirects=False) as response,
                ):
                    await _check(response)
                    return kind.model_validate_json(await _read(response))
        except (BackendUnavailableError, PreconditionError) as error:
            raise BackendUnavailableError(f"{self.url}{path}: {error}") from None

    async def text(self, path: str) -> str:
        """Return what a GET is answered with; empty where it cannot be had."""
        try:
            with self.translated():
                async with self._opened().get(self.url + path, allow_redirects=False) as response:
                    return (await _read(response)).decode(errors="replace") if response.status == 200 else ""
        except (BackendUnavailableError, PreconditionError):
            return ""

    async def post(self, path: str, body: Mapping[str, Any]) -> None:
        """POST ``body`` and leave the answer aside. Raises what ``translated`` translates."""
        async with self._opened().post(self.url + path, json=dict(body), allow_redirects=False) as response:
            await _check(response)

    async def events(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str], kind: type[T], bounds: CallBounds
    ) -> AsyncIterator[T]:
        """POST ``body`` and yield each event until ``[DONE]``. Closing the iterator drops the connection.

        Raises what ``translated`` translates, or PreconditionError: for an event that is no ``kind``, one longer than
        ``bounds`` allow, and a server that brings no token for longer than they allow.
        """
        async with asyncio.timeout(bounds.idle_seconds):
            response = await self._opened().post(
                self.url + path, json=dict(body), headers=headers, allow_redirects=False
            )
        async with response:
            await _check(response)
            parser, parse = SseParser(bounds.event_bytes), kind.model_validate_json
            with _Reading(response.content, bounds) as reading:
                while chunk := await reading.read():
                    for data in parser.feed(chunk):
                        if data == b"[DONE]":
                            await _read_to_end(response)
                            return
                        if not data.strip():  # some gateways keep a connection alive so
                            continue
                        yield parse(data)
                        reading.resumed()

    async def wait_until_ready(self, path: str, timeout_seconds: float, instead: str = "") -> None:
        """Poll until the server is ``ready``. Raises BackendUnavailableError after ``timeout_seconds``."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not await self.ready(path, instead):  # noqa: ASYNC110  (a server does not announce that it is up)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise BackendUnavailableError(f"{self.url}{path} did not answer in {timeout_seconds:g} s") from None

    async def ready(self, path: str, instead: str = "") -> bool:
        """Whether ``path`` answers 200, or ``instead`` where the server has no such route or shows it to others."""
        status = await self._status(path)
        if instead and status in _NO_ROUTE:
            status = await self._status(instead)
        return status == 200

    async def _status(self, path: str) -> int:
        """Return what a GET is answered with; 0 where nothing comes."""
        try:
            async with (
                asyncio.timeout(self._idle_seconds),
                self._opened().get(self.url + path, allow_redirects=False) as response,
            ):
                return response.status
        except (aiohttp.ClientError, OSError, ValueError):
            return 0

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            raise ServerFault("is not connected")
        return self._session


class HttpBackend:
    """What the backends over HTTP have in common: they are ready when ``/health`` says so.

    ``ready_instead``: the path that says so for servers without ``/health``, or that ask there for other rights.
    """

    ready_instead = ""

    def __init__(self, server: HttpServer, *, ready_seconds: float = 60.0) -> None:
        """Serve from ``server``; ``start`` waits ``ready_seconds`` at most (a model that loads answers 503)."""
        self._server = server
        self._ready_seconds = ready_seconds

    async def start(self) -> None:
        """Connect and wait until it is ready."""
        await self._server.open()
        await self._server.wait_until_ready("/health", self._ready_seconds, self.ready_instead)

    async def signals(self) -> Signals | None:
        """What the server says of its load; ``None`` where it does not."""
        return signals_of(await self._server.text("/metrics"))

    async def close(self) -> None:
        """Close the connections."""
        await self._server.close()


class _Reading:
    """Reads a stream, and ends it where it brings no token for too long: the time that the reader takes does not count.

    One slow tick for a stream instead of a timer for each read: it may be late by a second, or a quarter of the limit.
    """

    def __init__(self, content: aiohttp.StreamReader, bounds: CallBounds) -> None:
        self._content, self._bounds = content, bounds
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._waiting = False

    def __enter__(self) -> Self:
        self._look()
        return self

    def __exit__(self, *_: object) -> None:
        self._tick.cancel()

    async def read(self) -> bytes:
        """Return what has come; empty at the end."""
        if self._late:
            raise self._error()
        self._waiting = True
        try:
            return await self._content.readany()
        finally:
            self._waiting = False

    def resumed(self) -> None:
        """Whoever reads us came back for more."""
        if self._bounds.moved:
            self._bounds.moved = False
            self._since = self._loop.time()

    @property
    def _late(self) -> bool:
        return self._loop.time() - self._since >= self._bounds.idle_seconds

    def _look(self) -> None:
        if self._waiting and self._late:
            self._content.set_exception(self._error())
        else:
            self._tick = self._loop.call_later(min(1.0, self._bounds.idle_seconds / 4), self._look)

    def _error(self) -> TimeoutError:
        return TimeoutError(f"no token for {self._bounds.idle_seconds:g} s")


def _address(url: str, token: str) -> tuple[str, str]:
    """Take a URL apart: the address alone, and what to send as authorization."""
    try:
        whole = URL(url)
        address = whole.with_user(None).with_query(None).with_fragment(None)
    except ValueError:
        address = URL()
    if address.scheme not in ("http", "https") or not address.host:
        raise ValueError("backend_url: is no http:// or https:// address")
    if token:
        return str(address).rstrip("/"), f"Bearer {token}"
    if whole.user is None:
        return str(address).rstrip("/"), ""
    user = base64.b64encode(f"{whole.user}:{whole.password or ''}".encode()).decode()
    return str(address).rstrip("/"), f"Basic {user}"


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    text = b""
    with suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(_REFUSAL_SECONDS):
            text = await response.content.read(_LONGEST_REFUSAL)
    wait = retry_seconds(response.headers.get("Retry-After"), datetime.now(UTC))
    raise http_error(response.status, message_of(text) or response.reason or "", wait)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise ServerFault("sent more than it was asked for", f"more than {_LONGEST_BODY} bytes")
    return bytes(body)


async def _read_to_end(response: aiohttp.ClientResponse) -> None:
    """Read what follows the last event, so that the connection can be used again; a server that sends more loses it."""
    with suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(_CLOSING_SECONDS):
            while await response.content.readany():
                pass
