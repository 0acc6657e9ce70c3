"""Hugging Face text-generation-inference by its native protocol (``/generate_stream``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from scheduler_service.domain import BackendUnavailableError, PreconditionError, Sampling
from scheduler_service.generation.backends.base import Capabilities, Ended, Limits, Piece
from scheduler_service.generation.backends.http import HttpBackend, HttpServer
from scheduler_service.generation.forcing import Call, CallEnd

if TYPE_CHECKING:
    from scheduler_service.settings import SchedulerSettings


def make(url: str, settings: SchedulerSettings) -> TgiBackend:
    """A backend for one address."""
    server = HttpServer(url, token=settings.backend_token.get_secret_value())
    return TgiBackend(server, ready_seconds=settings.backend_ready_seconds)


class TgiBackend(HttpBackend):
    """One TGI server."""

    name = "tgi"
    # Since 3.0 it runs more than 1,024 tokens in chunks of 1,024, and may return more than was asked for.
    capabilities = Capabilities(call_limit=1024)

    async def limits(self) -> Limits:
        """Read ``/info``."""
        info = await self._server.get_json("/info")
        return Limits(
            model=str(info.get("model_id", "")),
            max_total_tokens=int(info.get("max_total_tokens") or 0),
            max_prompt_tokens=int(info.get("max_input_tokens") or 0),
            max_concurrent_requests=int(info.get("max_concurrent_requests") or 0),
        )

    async def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        """Run one call on ``/generate_stream``, where every refusal comes as an event with HTTP 200."""
        body = {"inputs": call.prompt, "parameters": parameters(call, sampling)}
        async for event in self._server.events("/generate_stream", body, headers):
            if "error" in event:
                raise stream_error(str(event["error"]), str(event.get("error_type", "")))
            token = event.get("token") or {}
            details = event.get("details") if event.get("generated_text") is not None else None
            # A special token (the end of the sequence) has no text for us; it still was generated.
            yield Piece("" if token.get("special") else str(token.get("text", "")), 1)
            if details is not None or event.get("generated_text") is not None:
                reason = (details or {}).get("finish_reason", "length")
                prompt_tokens = int((details or {}).get("input_length") or 0)
                yield Ended(CallEnd.LENGTH if reason == "length" else CallEnd.MODEL, prompt_tokens)
                return
        raise BackendUnavailableError("backend: the stream ended before its last event")


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


def stream_error(message: str, error_type: str) -> Exception:
    """Return our error for TGI's ``{"error", "error_type"}`` event."""
    if error_type == "validation":
        return PreconditionError("job.prompt", f"the backend refused it: {message}")
    return BackendUnavailableError(f"backend: {error_type or 'error'}: {message}")
