"""What every HTTP backend shares: one session, streams of events, foreign errors translated once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from scheduler_service.domain import BackendUnavailableError, PreconditionError
from scheduler_service.generation.backends.sse import SseParser, StreamFormatError

_BUSY = frozenset({429, 502, 503, 504})


class HttpServer:
    """One LLM server over HTTP; ``token`` is sent as a bearer token where set.

    ``stall_seconds``: how long a stream may stay silent (keep-alives count as a sign of life). ``reuse_connections``:
    off for servers that close a connection after a stream while announcing to keep it (llama.cpp).
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        stall_seconds: float = 60.0,
        max_connections: int = 1024,
        reuse_connections: bool = True,
    ) -> None:
        """Remember where the server is; ``open`` connects."""
        self.url = url.rstrip("/")
        self._token = token
        self._stall_seconds = stall_seconds
        self._max_connections = max_connections
        self._reuse_connections = reuse_connections
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Create the session; connections are made as they are needed."""
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._max_connections, force_close=not self._reuse_connections),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=self._stall_seconds),
        )

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get_json(self, path: str) -> dict[str, Any]:
        """Return a JSON object. Raises BackendUnavailableError for anything else."""
        with self._translated():
            async with self._opened().get(self.url + path) as response:
                await self._check(response)
                body = await response.json(content_type=None)
        if not isinstance(body, dict):
            raise BackendUnavailableError(f"{self.url}{path}: not a JSON object")
        return body

    async def post(self, path: str, body: Mapping[str, Any]) -> None:
        """POST ``body`` and leave the answer aside. Raises BackendUnavailableError or PreconditionError."""
        with self._translated():
            async with self._opened().post(self.url + path, json=dict(body)) as response:
                await self._check(response)

    async def events(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> AsyncIterator[Any]:
        """POST ``body`` and yield each event's JSON (``[DONE]`` is skipped). Closing the iterator drops the connection.

        Raises BackendUnavailableError or PreconditionError; a body that ends within an event is the former.
        """
        parser = SseParser()
        with self._translated():
            async with self._opened().post(self.url + path, json=dict(body), headers=headers) as response:
                await self._check(response)
                async for chunk in response.content.iter_any():
                    for data in parser.feed(chunk):
                        if data != "[DONE]":
                            yield json.loads(data)

    async def wait_until_ready(self, path: str, timeout_seconds: float) -> None:
        """Poll ``path`` until it answers 200. Raises BackendUnavailableError after ``timeout_seconds``."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not await self._answers(path):  # noqa: ASYNC110  (nobody tells us when a server is up)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise BackendUnavailableError(f"{self.url}{path} did not answer in {timeout_seconds:g} s") from None

    async def _answers(self, path: str) -> bool:
        try:
            async with self._opened().get(self.url + path) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise BackendUnavailableError(f"{self.url}: not connected")
        return self._session

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status == 200:
            return
        text = (await response.content.read(4096)).decode(errors="replace")
        raise http_error(response.status, _message(text) or response.reason or "", self.url)

    @staticmethod
    def _translated() -> _Translated:
        return _Translated()


class HttpBackend:
    """What the backends over HTTP have in common: they are ready when ``/health`` says so."""

    def __init__(self, server: HttpServer, *, ready_seconds: float = 60.0) -> None:
        """Serve from ``server``; ``start`` waits ``ready_seconds`` at most (a model that loads answers 503)."""
        self._server = server
        self._ready_seconds = ready_seconds

    async def start(self) -> None:
        """Connect and wait for ``/health``."""
        await self._server.open()
        await self._server.wait_until_ready("/health", self._ready_seconds)

    async def close(self) -> None:
        """Close the connections."""
        await self._server.close()


class _Translated:
    """Translates transport errors and malformed bodies to the scheduler's own error."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Raise BackendUnavailableError from what the HTTP client or the parser raised."""
        if isinstance(error, (aiohttp.ClientError, TimeoutError, StreamFormatError, ValueError, ConnectionError)):
            reason = str(error) or type(error).__name__
            raise BackendUnavailableError(f"backend: {reason}") from error


def http_error(status: int, message: str, url: str) -> Exception:
    """Return the error for an HTTP status: 4xx says that the request will never do, all others may pass."""
    if status in (400, 413, 422):
        return PreconditionError("job.prompt", f"the backend refused it: {message}")
    retry = 1.0 if status in _BUSY else 5.0
    return BackendUnavailableError(f"{url}: HTTP {status}: {message}", retry)


def _message(text: str) -> str:
    """Dig the message out of a JSON error body; plain text is returned as it is."""
    try:
        error = json.loads(text).get("error", text)
    except (ValueError, AttributeError):
        return text.strip()
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
