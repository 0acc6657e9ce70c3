"""A stand-in for OpenAI-compatible servers, with the differences between vLLM, SGLang, llama.cpp and TGI.

Its events have the form of vLLM's (``tests/fixtures/engines``): compact, with null fields, and in chats a role first.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.standins.connector import ConnectorStandIn
from tests.standins.listening import Listening


@dataclass
class _Progress:
    """How many tokens a request has generated so far."""

    tokens: int = 0


@dataclass
class OpenAiStandIn(Listening):
    """Start it with ``async with``. ``usage``: "running" (vLLM, SGLang), "last" (llama.cpp, TGI) or "none".

    ``tokens_per_chunk``: as speculative decoding sends them. ``error``: sent as an event after ``error_after`` chunks.
    ``busy``: answer so many requests with 429 first. ``reason``: the finish reason that replaces "stop".
    ``template``: how the chat route writes a prompt. ``think_end``: where set, chats tell reasoning apart from content
    there, as with a reasoning parser. ``token_seconds``: time per chunk. ``connector``: sends the states of prompts, as
    vLLM does with ours.
    """

    script: Callable[[str], Sequence[str]] = lambda prompt: ["hello"]
    usage: str = "running"
    tokens_per_chunk: int = 1
    error: Any = None
    error_after: int = 0
    busy: int = 0
    reason: str = "stop"
    models: Sequence[dict[str, Any]] = ({"id": "m", "max_model_len": 2048},)
    template: str = "Question: {user}\n{assistant}"
    think_end: str = ""
    token_seconds: float = 0.0
    connector: ConnectorStandIn = field(default_factory=lambda: ConnectorStandIn(mode="gone"))
    requests: list[dict[str, Any]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    url: str = ""

    def application(self) -> web.Application:
        """Return the routes."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/abort_request", self._abort)
        return app

    async def __aexit__(self, *left: object) -> None:
        await super().__aexit__(*left)
        await self.connector.close()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": list(self.models)})

    async def _abort(self, request: web.Request) -> web.Response:
        self.aborted.append((await request.json())["rid"])
        return web.Response()

    def _prompt(self, body: dict[str, Any]) -> str:
        if "messages" not in body:
            return body["prompt"]
        said = {message["role"]: message["content"] for message in body["messages"]}
        return self.template.format(user=said["user"], assistant=said.get("assistant", ""))

    def _choice(self, body: dict[str, Any], before: str, text: str) -> dict[str, Any]:
        """A chunk's choice; ``before``: what was written so far."""
        if "messages" not in body:
            return {"index": 0, "text": text, "logprobs": None, "finish_reason": None, "stop_reason": None}
        delta = {"content": text}
        if self.think_end:
            thinking = self.think_end not in self._prompt(body) + before
            delta = {"reasoning_content": text} if thinking else {"content": text}
            delta = {key: value.replace(self.think_end, "") for key, value in delta.items()}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}

    def _written(self, body: dict[str, Any]) -> list[str]:
        """What the model writes; a thinking budget ends its thinking."""
        prompt = self._prompt(body)
        tokens = list(self.script(prompt))
        budget = body.get("thinking_token_budget")
        if budget and self.think_end not in "".join(tokens[: budget + 1]):
            begun = [*tokens[:budget], self.think_end]
            return begun + list(self.script(prompt + "".join(begun)))
        return tokens

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        if self.busy:
            self.busy -= 1
            return web.json_response({"error": {"message": "too many requests"}}, status=429)
        if len(self._prompt(body)) > 20_000:
            return web.json_response({"error": {"message": "context length exceeded", "code": 400}}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        asked = self.connector.computed(body, self._prompt(body))
        progress = _Progress()
        try:
            return await self._generate(response, body, progress)
        finally:
            self.connector.ended(asked, progress.tokens)

    async def _generate(
        self, response: web.StreamResponse, body: dict[str, Any], progress: _Progress
    ) -> web.StreamResponse:
        """Write what the model writes."""
        written = self._written(body)
        tokens, cut = written[: body["max_tokens"]], len(written) > body["max_tokens"]
        stop = next((at for at, token in enumerate(tokens) if token in body.get("stop", ())), None)
        shown = tokens if stop is None else tokens[:stop]
        reason = "length" if cut and stop is None else self.reason
        sent = 0
        event: dict[str, Any]
        if "messages" in body:
            role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            event = {"choices": [role], "prompt_token_ids": None}
            if self.usage == "running":
                event["usage"] = _usage(0)
            await self._send(response, body, event)
        for at in range(0, len(shown), self.tokens_per_chunk):
            if self.error is not None and at >= self.error_after:
                await self._write(response, {"error": self.error})
                return response
            chunk = shown[at : at + self.tokens_per_chunk]
            sent += len(chunk)
            progress.tokens = sent
            event = {"choices": [self._choice(body, "".join(shown[:at]), "".join(chunk))]}
            if self.usage == "running":
                event["usage"] = _usage(sent)
            await self._send(response, body, event)
            await asyncio.sleep(self.token_seconds)
        last = self._choice(body, "".join(shown), "") | {"finish_reason": reason}
        progress.tokens = generated = sent + (stop is not None)
        event = {"choices": [last]}
        if self.usage == "running":
            event["usage"] = _usage(generated)
        await self._send(response, body, event)
        if self.usage != "none":
            await self._send(response, body, {"choices": [], "usage": _usage(generated)})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response: web.StreamResponse, body: dict[str, Any], event: dict[str, Any]) -> None:
        kind = "chat.completion.chunk" if "messages" in body else "text_completion"
        await self._write(response, {"id": "c", "object": kind, "created": 0, "model": body["model"], **event})

    @staticmethod
    async def _write(response: web.StreamResponse, event: dict[str, Any]) -> None:
        text = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
        await response.write(f"data: {text}\n\n".encode())


def _usage(generated: int) -> dict[str, int]:
    return {"prompt_tokens": 5, "total_tokens": 5 + generated, "completion_tokens": generated}
