"""A reasoning LLM server behind a gateway: answers chat completions, whole and streamed, within a thinking budget."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.standins.listening import Listening

ANSWER = ["The", " answer"]


@dataclass
class ChatEngine(Listening):
    """It would reason ``thought`` tokens, and answers with two; ``thinking_token_budget`` and ``max_tokens`` cut it.

    ``broken``: names of models whose requests fail. ``breaks_after``: a stream's connection is closed after so many
    tokens. ``gate``: where set, generation waits for it after ``gate_after`` tokens. ``told``: usage tells reasoning.
    ``requests``: the bodies that came. ``sent``: tokens that each of them was sent.
    """

    port: int = 0
    thought: int = 20
    broken: frozenset[str] = frozenset()
    breaks_after: int | None = None
    gate: asyncio.Event | None = None
    gate_after: int = 0
    told: bool = True
    requests: list[dict[str, Any]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def application(self) -> web.Application:
        """Return the routes."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        return app

    def _tokens(self, body: dict[str, Any]) -> list[dict[str, str]]:
        thought = min(self.thought, body.get("thinking_token_budget", self.thought))
        tokens = [{"reasoning_content": "hm "}] * thought + [{"content": piece} for piece in ANSWER]
        return tokens[: body.get("max_completion_tokens", body.get("max_tokens", len(tokens)))]

    def _usage(self, tokens: list[dict[str, str]]) -> dict[str, Any]:
        used: dict[str, Any] = {
            "prompt_tokens": 9, "completion_tokens": len(tokens), "total_tokens": 9 + len(tokens),
        }  # fmt: skip
        if self.told:
            reasoned = sum("reasoning_content" in token for token in tokens)
            used["completion_tokens_details"] = {"reasoning_tokens": reasoned}
        return used

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        if body["model"] in self.broken:
            return web.json_response({"error": {"message": "out of memory"}}, status=500)
        tokens = self._tokens(body)
        if body.get("stream"):
            return await self._stream(request, body, tokens)
        if self.gate is not None:
            await self.gate.wait()
        message = {
            "role": "assistant",
            "content": "".join(token.get("content", "") for token in tokens),
            "reasoning_content": "".join(token.get("reasoning_content", "") for token in tokens),
        }
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
        return web.json_response({**whole, "usage": self._usage(tokens)})

    async def _stream(
        self, request: web.Request, body: dict[str, Any], tokens: list[dict[str, str]]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        at = len(self.sent)
        self.sent.append(0)

        async def send(**event: Any) -> None:
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": body["model"], **event}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())

        for position, delta in enumerate(tokens):
            if self.gate is not None and position == self.gate_after:
                await self.gate.wait()
            if position == self.breaks_after:
                assert request.transport is not None
                request.transport.close()
                return response
            await send(choices=[{"index": 0, "delta": delta, "finish_reason": None}])
            self.sent[at] += 1
        await send(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if body.get("stream_options", {}).get("include_usage"):
            await send(choices=[], usage=self._usage(tokens))
        await response.write(b"data: [DONE]\n\n")
        return response
