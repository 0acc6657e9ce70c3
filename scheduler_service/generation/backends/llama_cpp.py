"""A llama.cpp server by its native protocol (``/completion``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import PurePath
from typing import Any

from scheduler_service.domain import Sampling
from scheduler_service.generation.backends.base import BackendConfiguration, Capabilities, Ended, Limits, Piece
from scheduler_service.generation.backends.faults import ServerFault, http_error
from scheduler_service.generation.backends.http import HttpBackend, HttpServer
from scheduler_service.generation.backends.wire import ErrorObject, Wire
from scheduler_service.generation.forcing import Call, CallEnd


def make(url: str, configuration: BackendConfiguration) -> LlamaCppBackend:
    """A backend for one address."""
    # It announces to keep a connection after a stream, and closes it.
    server = HttpServer(
        url,
        token=configuration.token,
        idle_seconds=configuration.idle_seconds,
        reuse_connections=False,
    )
    return LlamaCppBackend(server, ready_seconds=configuration.ready_seconds)


class LlamaCppBackend(HttpBackend):
    """One llama.cpp server."""

    name = "llama_cpp"
    capabilities = Capabilities()

    async def limits(self) -> Limits:
        """Read ``/props``; a slot's context holds prompt and generation together."""
        props = await self._server.get("/props", _Props)
        settings = props.default_generation_settings
        context = max(0, settings.n_ctx or 0) if settings is not None else 0
        return Limits(
            model=_name(props.model_alias or props.model_path or ""),
            max_total_tokens=context,
            max_prompt_tokens=context,
            max_concurrent_requests=max(0, props.total_slots or 0),
        )

    async def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        """Run one call on ``/completion``."""
        bounds, body = self._server.bounds(call), parameters(call, sampling)
        with self._server.translated(call.prompt):
            async for event in self._server.events("/completion", body, headers, _Event, bounds):
                if event.error is not None:
                    raise http_error(event.error.status, event.error.message or "")
                if event.tokens or event.content:
                    yield bounds.piece(event.content, len(event.tokens) or 1)
                if event.stop:
                    end = CallEnd.LENGTH if event.stop_type == "limit" else CallEnd.MODEL
                    yield bounds.ended(end, event.tokens_evaluated)
                    return
            raise ServerFault("ended its stream before the last event")


class _Settings(Wire):
    n_ctx: int | None = None


class _Props(Wire):
    """What ``/props`` says."""

    default_generation_settings: _Settings | None = None
    model_alias: str | None = None
    model_path: str | None = None
    total_slots: int | None = None


class _Event(Wire):
    """Some text and its token ids; the last one says why it is the last; or an error."""

    content: str = ""
    tokens: tuple[int, ...] = ()
    stop: bool = False
    stop_type: str = ""
    tokens_evaluated: int | None = None
    error: ErrorObject | None = None


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
