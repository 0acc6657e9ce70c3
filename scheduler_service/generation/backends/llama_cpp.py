"""A llama.cpp server by its native protocol (``/completion``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from scheduler_service.domain import BackendUnavailableError, Sampling
from scheduler_service.generation.backends.base import Capabilities, Ended, Limits, Piece
from scheduler_service.generation.backends.http import HttpBackend, HttpServer, http_error
from scheduler_service.generation.forcing import Call, CallEnd

if TYPE_CHECKING:
    from scheduler_service.settings import SchedulerSettings


def make(url: str, settings: SchedulerSettings) -> LlamaCppBackend:
    """A backend for one address."""
    # It announces to keep a connection after a stream, and closes it.
    server = HttpServer(url, token=settings.backend_token.get_secret_value(), reuse_connections=False)
    return LlamaCppBackend(server, ready_seconds=settings.backend_ready_seconds)


class LlamaCppBackend(HttpBackend):
    """One llama.cpp server."""

    name = "llama_cpp"
    capabilities = Capabilities()

    async def limits(self) -> Limits:
        """Read ``/props``; a slot's context holds prompt and generation together."""
        props = await self._server.get_json("/props")
        context = int((props.get("default_generation_settings") or {}).get("n_ctx") or 0)
        return Limits(
            model=_name(str(props.get("model_alias") or props.get("model_path") or "")),
            max_total_tokens=context,
            max_prompt_tokens=context,
            max_concurrent_requests=int(props.get("total_slots") or 0),
        )

    async def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        """Run one call on ``/completion``."""
        async for event in self._server.events("/completion", parameters(call, sampling), headers):
            if "error" in event:
                error = event["error"]
                raise http_error(int(error.get("code", 500)), str(error.get("message", error)), self._server.url)
            tokens = len(event.get("tokens") or ())
            content = str(event.get("content", ""))
            if tokens or content:
                yield Piece(content, max(1, tokens))
            if event.get("stop"):
                end = CallEnd.LENGTH if event.get("stop_type") == "limit" else CallEnd.MODEL
                yield Ended(end, int(event.get("tokens_evaluated") or 0))
                return
        raise BackendUnavailableError("backend: the stream ended before its last event")


def _name(said: str) -> str:
    """A model's name; of a path, which the server says where it has no alias, the file's."""
    return PurePath(said).stem if said.endswith(".gguf") else said


def parameters(call: Call, sampling: Sampling) -> dict[str, Any]:
    """Return llama.cpp's request; token ids are asked for so that we count them ourselves."""
    wanted: dict[str, Any] = {
        "prompt": call.prompt,
        "n_predict": call.max_tokens,
        "stop": list(call.stop),
        "stream": True,
        "return_tokens": True,
        "cache_prompt": True,
    }
    return wanted | sampling.given()
