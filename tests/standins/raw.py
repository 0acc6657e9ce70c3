"""A server of any of the four protocols that answers generations with the bytes that a test gives it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.standins.listening import Listening

PATHS = {
    "tgi": "/generate_stream",
    "vllm": "/v1/completions",
    "sglang": "/v1/completions",
    "openai": "/v1/completions",
    "llama_cpp": "/completion",
}


@dataclass
class RawServer(Listening):
    """``body``: what the answer to a request is, in chunks; ``status`` and ``headers`` go before it.

    ``keep_alives``: after the body, a comment every so many seconds for ever; 0 ends the stream instead.
    """

    body: Callable[[dict[str, Any]], Iterable[bytes]] = lambda _: ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    keep_alives: float = 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def application(self) -> web.Application:
        """Return the routes of all servers."""
        app = web.Application(client_max_size=16 << 20)
        answers: dict[str, Any] = {
            "/health": {},
            "/info": {"model_id": "m", "max_total_tokens": 4096, "max_concurrent_requests": 64},
            "/v1/models": {"data": [{"id": "m", "max_model_len": 4096}]},
            "/props": {"default_generation_settings": {"n_ctx": 4096}, "model_alias": "m", "total_slots": 64},
        }
        for path, answer in answers.items():
            app.router.add_get(path, _says(answer))
        for path in set(PATHS.values()):
            app.router.add_post(path, self._generate)
        app.router.add_post("/abort_request", _says({}))
        return app

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        wanted = await request.json()
        self.requests.append(wanted)
        response = web.StreamResponse(status=self.status, headers=self.headers)
        await response.prepare(request)
        for chunk in self.body(wanted):
            if chunk:
                await response.write(chunk)
        while self.keep_alives:
            await response.write(b":\n\n")
            await asyncio.sleep(self.keep_alives)
        return response


def _says(answer: Any) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def say(_: web.Request) -> web.Response:
        return web.json_response(answer)

    return say
