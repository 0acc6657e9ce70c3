"""OpenAI-compatible servers (vLLM, SGLang, llama.cpp, TGI) by raw-prompt completions (``/v1/completions``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from scheduler_service.backends.base import Ended, Limits, Piece
from scheduler_service.backends.http import HttpBackend, HttpServer, http_error
from scheduler_service.domain import BackendUnavailableError, Sampling
from scheduler_service.forcing import Call, CallEnd


class OpenAiBackend(HttpBackend):
    """One server. ``model``: the name to ask for; empty takes the first that the server lists.

    Tokens are counted by the server's running usage where it sends one (vLLM, SGLang: ``continuous_usage_stats``), else
    one a chunk; what its last usage says beyond that is added at the end.
    """

    name = "openai"

    def __init__(self, server: HttpServer, *, model: str = "", ready_seconds: float = 60.0) -> None:
        """Serve from ``server``."""
        super().__init__(server, ready_seconds=ready_seconds)
        self._model = model

    async def limits(self) -> Limits:
        """Read ``/v1/models``; vLLM says there how long a context may be, the others do not."""
        models = (await self._server.get_json("/v1/models")).get("data") or []
        named = [entry for entry in models if not self._model or entry.get("id") == self._model]
        if not named:
            known = ", ".join(str(entry.get("id")) for entry in models) or "none"
            raise BackendUnavailableError(f"backend: no model {self._model!r}; it serves {known}")
        self._model = str(named[0].get("id", ""))
        context = int(named[0].get("max_model_len") or 0)
        return Limits(model=self._model, max_total_tokens=context, max_prompt_tokens=context)

    async def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        """Run one call; the end is told once the stream is over, since usage comes after the finish reason."""
        counted, prompt_tokens, end = 0, 0, None
        async for event in self._server.events("/v1/completions", parameters(call, sampling, self._model), headers):
            if error := event.get("error"):
                raise stream_error(error, self._server.url)
            usage = event.get("usage") or {}
            prompt_tokens = int(usage.get("prompt_tokens") or prompt_tokens)
            told = int(usage.get("completion_tokens") or 0)
            text, reason = "", None
            for choice in event.get("choices") or ():
                text += str(choice.get("text") or "")
                reason = choice.get("finish_reason") or reason
            tokens = told - counted if told else int(bool(text))
            if text or tokens > 0:
                counted += max(0, tokens)
                yield Piece(text, max(0, tokens))
            if reason == "abort":
                raise BackendUnavailableError("backend: it aborted the request")
            if reason is not None:
                end = CallEnd.LENGTH if reason == "length" else CallEnd.MODEL
        if end is None:
            raise BackendUnavailableError("backend: the stream ended before its last event")
        yield Ended(end, prompt_tokens)


def parameters(call: Call, sampling: Sampling, model: str) -> dict[str, Any]:
    """Return the request. ``top_k`` is no OpenAI parameter, but all of these servers take it."""
    wanted: dict[str, Any] = {
        "model": model or "default",
        "prompt": call.prompt,
        "max_tokens": call.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    if call.stop:
        wanted["stop"] = list(call.stop[:4])
    return wanted | sampling.given()


def stream_error(error: Any, url: str) -> Exception:
    """Return our error for an ``error`` event: an object with a code, TGI's with ``http_status_code``, or a text."""
    if not isinstance(error, dict):
        return BackendUnavailableError(f"{url}: {error}")
    code = error.get("code") or error.get("http_status_code") or 500
    return http_error(int(code) if str(code).isdigit() else 500, str(error.get("message", error)), url)
