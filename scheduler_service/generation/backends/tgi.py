"""Hugging Face text-generation-inference by its native protocol (``/generate_stream``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from scheduler_service.domain import PreconditionError, Sampling
from scheduler_service.generation.backends.base import BackendConfiguration, Capabilities, Ended, Limits, Piece
from scheduler_service.generation.backends.faults import ServerFault, http_error
from scheduler_service.generation.backends.http import HttpBackend, HttpServer
from scheduler_service.generation.backends.wire import Wire
from scheduler_service.generation.forcing import Call, CallEnd


def make(url: str, configuration: BackendConfiguration) -> TgiBackend:
    """A backend for one address."""
    server = HttpServer(url, token=configuration.token, idle_seconds=configuration.idle_seconds)
    return TgiBackend(server, ready_seconds=configuration.ready_seconds)


class TgiBackend(HttpBackend):
    """One TGI server."""

    name = "tgi"
    # Since 3.0 it runs more than 1,024 tokens in chunks of 1,024, and may return more than was asked for.
    capabilities = Capabilities(call_limit=1024)

    async def limits(self) -> Limits:
        """Read ``/info``."""
        info = await self._server.get("/info", _Info)
        return Limits(
            model=info.model_id,
            max_total_tokens=max(0, info.max_total_tokens or 0),
            max_prompt_tokens=max(0, info.max_input_tokens or 0),
            max_concurrent_requests=max(0, info.max_concurrent_requests or 0),
        )

    async def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        """Run one call on ``/generate_stream``, where every refusal comes as an event with HTTP 200."""
        body = {"inputs": call.prompt, "parameters": parameters(call, sampling)}
        bounds = self._server.bounds(call)
        with self._server.translated(call.prompt):
            async for event in self._server.events("/generate_stream", body, headers, _Event, bounds):
                if event.error is not None:
                    raise stream_error(event.error, event.error_type)
                if event.token is None:
                    raise ServerFault("sent what is not of its protocol", "neither a token nor an error")
                # A special token has no text for us where the template's marks are none; it still was generated.
                silent = event.token.special and not call.special_tokens
                yield bounds.piece("" if silent else event.token.text, 1)
                if event.generated_text is not None:
                    details = event.details or _Details()
                    end = CallEnd.LENGTH if details.finish_reason == "length" else CallEnd.MODEL
                    yield bounds.ended(end, details.input_length)
                    return
            raise ServerFault("ended its stream before the last event")


class _Info(Wire):
    """What ``/info`` says."""

    model_id: str = ""
    max_total_tokens: int | None = None
    max_input_tokens: int | None = None
    max_concurrent_requests: int | None = None


class _Token(Wire):
    text: str
    special: bool = False


class _Details(Wire):
    finish_reason: str = "length"
    input_length: int | None = None


class _Event(Wire):
    """A token, with the whole text and the details at the last one, or an error."""

    token: _Token | None = None
    generated_text: str | None = None
    details: _Details | None = None
    error: str | None = None
    error_type: str = ""


def parameters(call: Call, sampling: Sampling) -> dict[str, Any]:
    """Return TGI's parameters: a temperature of 0 means no sampling, a top_p of 1 is left out (TGI refuses both)."""
    wanted: dict[str, Any] = {"max_new_tokens": call.max_tokens, "details": True, "stop": list(call.stop[:4])}
    wanted["do_sample"] = sampling.temperature is None or sampling.temperature > 0
    if sampling.temperature:
        wanted["temperature"] = sampling.temperature
    if sampling.top_p is not None and sampling.top_p < 1 and wanted["do_sample"]:
        wanted["top_p"] = sampling.top_p
    if sampling.top_k is not None and wanted["do_sample"]:
        wanted["top_k"] = sampling.top_k
    if sampling.seed is not None:
        wanted["seed"] = sampling.seed
    return wanted


def stream_error(message: str, error_type: str) -> ServerFault | PreconditionError:
    """Return our error for TGI's ``{"error", "error_type"}`` event."""
    if error_type == "validation":
        return http_error(422, message)
    if error_type == "overloaded":
        return ServerFault("is overloaded", message, busy=True)
    return ServerFault("failed while it generated", f"{error_type or 'error'}: {message}")
