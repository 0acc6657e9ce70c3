"""A page that shows a running scheduler, read-only: figures, last budgets as bars, and why a request got its budget.

Without a token every caller sees it: listen where only operators connect. It shows prompts only where the journal keeps
them.
"""

from __future__ import annotations

import json
import logging
from importlib.resources import files
from typing import Any

from aiohttp import web
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from predictive_scheduling.page_access import CHALLENGE, PageAccess
from scheduler_service.api.guarded_site import GuardedServer, Handler, HttpLimits
from scheduler_service.api.status import StatusBoard

log = logging.getLogger(__name__)

_RECENT = 96
_LIMITS = HttpLimits(connections=64, body_bytes=1 << 20)  # operators and their browsers; nobody sends a body
_HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def picture(status: dict[str, Any]) -> str:
    """Return the page as it shows ``status`` (as of ``/status.json``), needing no scheduler any more."""
    page = (files("scheduler_service.api") / "status_page.html").read_text()
    inside = json.dumps(status).replace("</", "<\\/")
    return page.replace("const frozen = null;", f"const frozen = {inside};")


class StatusPage:
    """Serves ``/``, ``/status.json`` and ``/request.json?id=…`` of a ``board``."""

    def __init__(self, board: StatusBoard, access: PageAccess | None = None) -> None:
        """Show ``board``. ``access``: who may see it; everybody where it is not given."""
        self._board, self._access = board, access or PageAccess()
        self._html = (files("scheduler_service.api") / "status_page.html").read_text()
        routes = {
            ("GET", "/"): self._page,
            ("GET", "/status.json"): self._status,
            ("GET", "/request.json"): self._request,
        }
        self._server = GuardedServer(routes, _LIMITS, guard=self._guarded, shutdown_timeout=0.5, access_log=None)

    @property
    def port(self) -> int:
        """Where it listens; 0 before it does."""
        return self._server.port

    async def start(self, address: str) -> None:
        """Listen on ``host:port``. Raises OSError where the address is taken."""
        await self._server.start(address)
        log.info("status page on port %d", self.port)
        self._access.tell("the status page", f"{address.rpartition(':')[0]}:{self.port}")

    async def stop(self) -> None:
        """Stop listening."""
        await self._server.stop()

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._access.allows(request.headers.get("Authorization", "")):
            return web.Response(status=401, text="this page asks for pages_token", headers={**_HEADERS, **CHALLENGE})
        return await handler(request)

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(text=self._html, content_type="text/html", headers=_HEADERS)

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(_json(self._board.status(_RECENT)), headers=_HEADERS)

    async def _request(self, request: web.Request) -> web.Response:
        wanted = request.query.get("id", "")
        found = self._board.find(wanted)
        if found is None:
            reason = f"{wanted!r} is none of the last {self._board.journal.keep} requests of this scheduler"
            return web.json_response({"error": reason}, status=404, headers=_HEADERS)
        return web.json_response({"request": _json(found)}, headers=_HEADERS)


def _json(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
