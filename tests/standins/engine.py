"""A stand-in for an engine behind a gateway: as vLLM answers callers who are not us, by the fixtures of a real one.

Whole or streamed; usage in a stream only where it was asked for; a thinking budget of its own; HTTP/1 with chunks.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.standins.listening import Listening


@dataclass
class EngineStandIn(Listening):
    """Start it with ``async with``. It thinks ``thinks`` tokens, or to its budget, and answers in ``answers``.

    ``token_seconds``: time per token. ``status``: answer with this one instead. ``says_reasoning``: usage tells
    reasoning apart. ``piece``: bytes that are written at once; 0 for an event at a time. ``breaks_after``: tokens after
    which the connection is cut.
    """

    thinks: int = 60
    answers: int = 4
    token_seconds: float = 0.0
    status: int = 200
    says_reasoning: bool = False
    piece: int = 0
    breaks_after: int = -1
    compressed: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    left: int = 0
    url: str = ""

    def application(self) -> web.Application:
        """Return the routes."""
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/{path:.*}", self._answer)
        app.router.add_get("/{path:.*}", self._get)
        return app

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response({"path": request.path})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.raw.append(await request.read())
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        try:
            body = json.loads(self.raw[-1])
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return web.json_response({"error": {"message": "no JSON object"}}, status=400)
        self.requests.append(body)
        if self.status != 200:
            return web.json_response({"error": {"message": "no"}}, status=self.status)
        thought = min(self.thinks, body.get("thinking_token_budget", self.thinks))
        most = body.get("max_tokens") or body.get("max_completion_tokens") or body.get("max_output_tokens") or 1 << 30
        thought, answered = min(thought, most), min(self.answers, most - min(thought, most))
        usage = {"prompt_tokens": 7, "total_tokens": 7 + thought + answered, "completion_tokens": thought + answered}
        if self.says_reasoning:
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        if not body.get("stream"):
            await asyncio.sleep(self.token_seconds * (thought + answered))
            choice = {"index": 0, "message": {"role": "assistant", "content": "a" * answered}, "finish_reason": "stop"}
            return web.json_response({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage})
        try:
            return await self._stream(request, body, thought, answered, usage)
        except (asyncio.CancelledError, ConnectionError):
            self.left += 1
            raise

    async def _stream(
        self, request: web.Request, body: dict[str, Any], thought: int, answered: int, usage: dict[str, Any]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        if self.compressed and "gzip" in request.headers.get("Accept-Encoding", ""):
            response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(request)
        waiting = b""

        async def send(event: dict[str, Any] | str) -> None:
            nonlocal waiting
            text = event if isinstance(event, str) else json.dumps({"id": "c", "model": "m", **event})
            waiting += f"data: {text}\n\n".encode()
            while len(waiting) >= max(1, self.piece):
                size = self.piece or len(waiting)
                await response.write(waiting[:size])
                waiting = waiting[size:]

        for at in range(thought + answered):
            if at == self.breaks_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            name = "reasoning_content" if at < thought else "content"
            await send({"choices": [{"index": 0, "delta": {name: "t"}, "finish_reason": None}]})
            await asyncio.sleep(self.token_seconds)
        await send({"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            await send({"choices": [], "usage": usage})
        await send("[DONE]")
        if waiting:
            await response.write(waiting)
        return response
