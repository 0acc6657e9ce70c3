"""A stand-in for text-generation-inference 3.3 that follows its wire behaviour, faults included.

What it says is scripted: ``script`` maps a prompt to the tokens that the "model" would write before its end token.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.standins.listening import Listening

Script = Callable[[str], Sequence[str]]
MAX_BODY = 2 << 20


class RefusedError(Exception):
    """TGI's error: its HTTP status outside streams, and its ``error_type``."""

    def __init__(self, status: int, message: str, error_type: str) -> None:
        super().__init__(message)
        self.status, self.message, self.error_type = status, message, error_type

    def body(self) -> dict[str, str]:
        return {"error": self.message, "error_type": self.error_type}


def _validation(message: str) -> RefusedError:
    return RefusedError(422, f"Input validation error: {message}", "validation")


@dataclass
class TgiStandIn(Listening):
    """Start it with ``async with``; ``url`` is then where it listens.

    ``space_after_data``: as since v2.1.0. ``keep_alive_every``: send a comment before every n-th event, 0 for none.
    ``overloaded``: refuse everything. ``fail_after``: break a stream after so many tokens, by an error event or, with
    ``reset``, by closing the connection. ``token_seconds``: time per token. ``require_token``: bearer token to ask for.
    """

    script: Script = lambda prompt: ["hello"]
    max_input_tokens: int = 512
    max_total_tokens: int = 2048
    max_concurrent_requests: int = 128
    space_after_data: bool = True
    keep_alive_every: int = 0
    overloaded: bool = False
    fail_after: int | None = None
    reset: bool = False
    token_seconds: float = 0.0
    require_token: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    cancelled: int = 0
    url: str = ""

    def application(self) -> web.Application:
        """Return the routes."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._authorise])
        app.router.add_get("/health", self._health)
        app.router.add_get("/info", self._info)
        app.router.add_post("/generate", self._generate)
        app.router.add_post("/generate_stream", self._generate_stream)
        app.router.add_post("/", self._compatible)
        return app

    @web.middleware
    async def _authorise(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.require_token and request.headers.get("Authorization") != f"Bearer {self.require_token}":
            return web.Response(status=401)
        return await handler(request)

    async def _health(self, request: web.Request) -> web.Response:
        if self.overloaded:
            return web.json_response({"error": "unhealthy", "error_type": "healthcheck"}, status=503)
        return web.Response()

    async def _info(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "model_id": "stand-in/model",
                "model_sha": None,
                "model_pipeline_tag": None,
                "max_concurrent_requests": self.max_concurrent_requests,
                "max_best_of": 2,
                "max_stop_sequences": 4,
                "max_input_tokens": self.max_input_tokens,
                "max_total_tokens": self.max_total_tokens,
                "validation_workers": 2,
                "max_client_batch_size": 4,
                "router": "text-generation-router",
                "version": "3.3.7",
                "sha": None,
                "docker_label": None,
            }
        )

    async def _body(self, request: web.Request) -> dict[str, Any]:
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise web.HTTPRequestEntityTooLarge(MAX_BODY, MAX_BODY + 1, text="length limit exceeded") from None
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"Failed to parse the request body as JSON: {error}") from None
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        return body

    async def _compatible(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        if body.get("stream"):
            return await self._stream(request, body)
        response = await self._answer(body)
        if response.status != 200:
            return response
        headers = {name: value for name, value in response.headers.items() if name.startswith("x-")}
        return web.json_response([json.loads(response.text or "")], headers=headers)

    async def _generate(self, request: web.Request) -> web.Response:
        return await self._answer(await self._body(request))

    async def _generate_stream(self, request: web.Request) -> web.StreamResponse:
        return await self._stream(request, await self._body(request))

    async def _answer(self, body: dict[str, Any]) -> web.Response:
        try:
            wanted = self._check(body)
        except RefusedError as refused:
            return web.json_response(refused.body(), status=refused.status)
        tokens, reason = self._tokens(body["inputs"], wanted)
        details = {
            "finish_reason": reason,
            "generated_tokens": len(tokens),
            "seed": wanted.get("seed"),
            "prefill": [],
            "tokens": [_token(at, text) for at, text in enumerate(tokens)],
        }
        reply: dict[str, Any] = {"generated_text": _text(tokens)}
        if wanted.get("details"):
            reply["details"] = details
        count = str(len(tokens))
        times = dict.fromkeys(
            ("x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token"), "1"
        )
        headers = {**times, "x-prompt-tokens": str(_length(body["inputs"])), "x-generated-tokens": count}
        return web.json_response(reply, headers=headers)

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        self.running += 1
        try:
            await self._write_stream(request, response, body)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return response

    async def _write_stream(self, request: web.Request, response: web.StreamResponse, body: dict[str, Any]) -> None:
        try:
            wanted = self._check(body, streaming=True)
        except RefusedError as refused:
            return await self._event(response, refused.body())
        tokens, reason = self._tokens(body["inputs"], wanted)
        for at, text in enumerate(tokens):
            if self.token_seconds:
                await asyncio.sleep(self.token_seconds)
            if self.fail_after is not None and at >= self.fail_after:
                if self.reset and request.transport is not None:
                    request.transport.abort()
                    return None
                return await self._event(
                    response, RefusedError(424, "Request failed during generation: it broke", "generation").body()
                )
            if self.keep_alive_every and at % self.keep_alive_every == 0:
                await response.write(b":\n\n")
            event: dict[str, Any] = {
                "index": at + 1,
                "token": _token(at, text),
                "generated_text": None,
                "details": None,
            }
            if at == len(tokens) - 1:
                event["generated_text"] = _text(tokens)
                event["details"] = {
                    "finish_reason": reason,
                    "generated_tokens": len(tokens),
                    "seed": wanted.get("seed"),
                    "input_length": _length(body["inputs"]),
                }
            await self._event(response, event)
        return None

    async def _event(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        start = "data: " if self.space_after_data else "data:"
        await response.write(f"{start}{json.dumps(event, separators=(',', ':'), ensure_ascii=False)}\n\n".encode())

    def _check(self, body: dict[str, Any], *, streaming: bool = False) -> dict[str, Any]:
        """TGI's validation, in its order as far as it matters here."""
        wanted = body.get("parameters") or {}
        if self.overloaded or self.running > self.max_concurrent_requests:
            raise RefusedError(429, "Model is overloaded", "overloaded")
        if (wanted.get("best_of") or 1) > 1 and streaming:
            raise _validation("`best_of` != 1 is not supported when streaming tokens")
        if (wanted.get("best_of") or 1) > 2:
            raise _validation("`best_of` must be <= 2")
        for name in ("temperature", "repetition_penalty"):
            if wanted.get(name) is not None and wanted[name] <= 0:
                raise _validation(f"`{name}` must be strictly positive")
        for name in ("top_p", "typical_p"):
            if wanted.get(name) is not None and not 0 < wanted[name] < 1:
                raise _validation(f"`{name}` must be > 0.0 and < 1.0")
        if wanted.get("frequency_penalty") is not None and not -2 <= wanted["frequency_penalty"] <= 2:
            raise _validation("`frequency_penalty` must be >= -2.0 and <= 2.0")
        if wanted.get("top_k") is not None and wanted["top_k"] <= 0:
            raise _validation("`top_k` must be strictly positive")
        if (wanted.get("top_n_tokens") or 0) > 5:
            raise _validation("`top_n_tokens` must be >= 0 and <= 5")
        if wanted.get("max_new_tokens") is not None and wanted["max_new_tokens"] < 1:
            raise _validation("`max_new_tokens` must be strictly positive")
        if len(wanted.get("stop") or ()) > 4:
            raise _validation("`stop` supports up to 4 stop sequences")
        if not body.get("inputs"):
            raise _validation("`inputs` cannot be empty")
        length = _length(body["inputs"])
        if length > self.max_input_tokens:
            raise _validation(f"`inputs` must have less than {self.max_input_tokens} tokens. Given: {length}")
        if length + (wanted.get("max_new_tokens") or 1) > self.max_total_tokens:
            raise _validation(
                f"`inputs` tokens + `max_new_tokens` must be <= {self.max_total_tokens}. "
                f"Given: {length} `inputs` tokens and {wanted['max_new_tokens']} `max_new_tokens`"
            )
        return wanted

    def _tokens(self, prompt: str, wanted: dict[str, Any]) -> tuple[list[str], str]:
        """The tokens that are generated, and why they end. Above 1,024 the router counts in chunks of 1,024."""
        limit = wanted.get("max_new_tokens") or self.max_total_tokens - _length(prompt)
        limit = limit if limit <= 1024 else -(-limit // 1024) * 1024
        tokens: list[str] = []
        for text in self.script(prompt):
            if len(tokens) == limit:
                return tokens, "length"
            tokens.append(text)
            if any("".join(tokens).endswith(stop) for stop in wanted.get("stop") or ()):
                return tokens, "stop_sequence"
        if len(tokens) == limit:
            return tokens, "length"
        return [*tokens, "</s>"], "eos_token"


def _token(at: int, text: str) -> dict[str, Any]:
    return {"id": at, "text": text, "logprob": -0.1, "special": text == "</s>"}


def _text(tokens: Sequence[str]) -> str:
    return "".join(text for text in tokens if text != "</s>")


def _length(prompt: str) -> int:
    """Tokens of a prompt: words, near enough for a stand-in."""
    return max(1, len(prompt.split()))
