"""A stand-in for OpenAI-compatible completion servers, with the differences between vLLM, SGLang, llama.cpp and TGI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.standins.listening import Listening


@dataclass
class OpenAiStandIn(Listening):
    """Start it with ``async with``. ``usage``: "running" (vLLM, SGLang), "last" (llama.cpp, TGI) or "none".

    ``tokens_per_chunk``: as speculative decoding sends them. ``error``: sent as an event after ``error_after`` chunks.
    ``busy``: answer so many requests with 429 first. ``reason``: the finish reason that replaces "stop".
    """

    script: Callable[[str], Sequence[str]] = lambda prompt: ["hello"]
    usage: str = "running"
    tokens_per_chunk: int = 1
    error: Any = None
    error_after: int = 0
    busy: int = 0
    reason: str = "stop"
    models: Sequence[dict[str, Any]] = ({"id": "m", "max_model_len": 2048},)
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def application(self) -> web.Application:
        """Return the routes."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._complete)
        return app

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": list(self.models)})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        if self.busy:
            self.busy -= 1
            return web.json_response({"error": {"message": "too many requests"}}, status=429)
        if len(body["prompt"]) > 20_000:
            return web.json_response({"error": {"message": "context length exceeded", "code": 400}}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        tokens = list(self.script(body["prompt"]))[: body["max_tokens"]]
        cut = len(list(self.script(body["prompt"]))) > body["max_tokens"]
        stop = next((at for at, token in enumerate(tokens) if token in body.get("stop", ())), None)
        shown = tokens if stop is None else tokens[:stop]
        reason = "length" if cut and stop is None else self.reason
        sent = 0
        for at in range(0, len(shown), self.tokens_per_chunk):
            if self.error is not None and at >= self.error_after:
                await self._send(response, {"error": self.error})
                return response
            chunk = shown[at : at + self.tokens_per_chunk]
            sent += len(chunk)
            event: dict[str, Any] = {"choices": [{"index": 0, "text": "".join(chunk), "finish_reason": None}]}
            if self.usage == "running":
                event["usage"] = {"prompt_tokens": 5, "completion_tokens": sent}
            await self._send(response, event)
            await asyncio.sleep(0)
        await self._send(response, {"choices": [{"index": 0, "text": "", "finish_reason": reason}]})
        if self.usage != "none":
            generated = sent + (stop is not None)
            usage = {"prompt_tokens": 5, "completion_tokens": generated}
            await self._send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    @staticmethod
    async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(f"data: {json.dumps(event)}\n\n".encode())
