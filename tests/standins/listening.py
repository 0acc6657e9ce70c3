"""What the HTTP stand-ins share: they listen on a free port of the loopback while their block runs."""

from __future__ import annotations

from typing import Self

from aiohttp import web


class Listening:
    """``async with`` starts it; ``url`` is then where it listens. ``application`` says what it answers."""

    url: str
    port: int = 0  # any free one

    def application(self) -> web.Application:
        """Return the routes."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._runner = web.AppRunner(self.application(), handler_cancellation=True, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
