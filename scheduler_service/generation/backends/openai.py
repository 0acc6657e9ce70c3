"""OpenAI-compatible servers (vLLM, SGLang, llama.cpp, TGI): raw prompts, or chats that go on with a message."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scheduler_service.domain import BackendUnavailableError, Sampling
from scheduler_service.generation.backends.base import Capabilities, Ended, Limits, Piece
from scheduler_service.generation.backends.http import HttpBackend, HttpServer, http_error
from scheduler_service.generation.forcing import Call, CallEnd, Turn

if TYPE_CHECKING:
    from scheduler_service.settings import SchedulerSettings

log = logging.getLogger(__name__)

_ABORT_SECONDS = 1.0


@dataclass(frozen=True)
class Dialect:
    """Where the servers differ.

    ``abort_path``: where a call that was abandoned is named (SGLang may go on with it otherwise). ``continues``: the
    chat parameters that make the server go on with the assistant's last message.
    """

    name: str
    abort_path: str = ""
    continues: Mapping[str, bool] | None = None


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("openai"),  # TGI goes on with the assistant's message unasked
        Dialect("vllm", continues={"continue_final_message": True, "add_generation_prompt": False}),
        Dialect("sglang", abort_path="/abort_request", continues={"continue_final_message": True}),
    )
}


def make(url: str, settings: SchedulerSettings) -> OpenAiBackend:
    """A backend for one address, in the dialect that the settings name."""
    return OpenAiBackend(
        HttpServer(url, token=settings.backend_token.get_secret_value()),
        DIALECTS[settings.backend],
        model=settings.backend_model,
        ready_seconds=settings.backend_ready_seconds,
        chat=settings.backend_chat,
        thinking_budget=settings.backend_thinking_budget,
    )


class OpenAiBackend(HttpBackend):
    """One server. ``model``: the name to ask for; empty takes the first that the server lists.

    ``chat``: use ``/v1/chat/completions``, where the server's own template is applied. ``thinking_budget``: let the
    server end the thinking (vLLM with ``--reasoning-config``).

    Tokens are counted by the server's running usage where it sends one (vLLM, SGLang: ``continuous_usage_stats``), else
    one a chunk; what its last usage says beyond that is added at the end.
    """

    def __init__(
        self,
        server: HttpServer,
        dialect: Dialect = DIALECTS["openai"],
        *,
        model: str = "",
        ready_seconds: float = 60.0,
        chat: bool = False,
        thinking_budget: bool = False,
    ) -> None:
        """Serve from ``server``, which speaks ``dialect``."""
        super().__init__(server, ready_seconds=ready_seconds)
        self.name = dialect.name
        self.capabilities = Capabilities(chat=chat, thinking_budget=thinking_budget, aborts=bool(dialect.abort_path))
        self._dialect = dialect
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
        body = parameters(call, sampling, self._model)
        if self.capabilities.chat:
            path, reader = "/v1/chat/completions", _Reader(call.turn)
            body |= _messages(call, self._dialect)
        else:
            path, reader = "/v1/completions", _Reader(None)
            body["prompt"] = call.prompt
        if self._dialect.abort_path:
            body["rid"] = uuid.uuid4().hex
        counted, prompt_tokens, end = 0, 0, None
        try:
            async for event in self._server.events(path, body, headers):
                if error := event.get("error"):
                    raise stream_error(error, self._server.url)
                usage = event.get("usage") or {}
                prompt_tokens = int(usage.get("prompt_tokens") or prompt_tokens)
                told = int(usage.get("completion_tokens") or 0)
                before, text, reason = reader.read(event.get("choices") or ())
                tokens = max(0, told - counted if told else int(bool(text)))
                if before:  # its token came before, without text
                    yield Piece(before, 0)
                if text or tokens:
                    counted += tokens
                    yield Piece(text, tokens)
                if reason == "abort":
                    raise BackendUnavailableError("backend: it aborted the request")
                if reason is not None:
                    end = CallEnd.LENGTH if reason == "length" else CallEnd.MODEL
        finally:
            if end is None and self._dialect.abort_path:
                await self._abort(str(body["rid"]))
        if end is None:
            raise BackendUnavailableError("backend: the stream ended before its last event")
        yield Ended(end, prompt_tokens)

    async def _abort(self, request_id: str) -> None:
        """Tell the server that nobody reads a call any more; it may have seen the connection close already."""
        try:
            async with asyncio.timeout(_ABORT_SECONDS):
                await self._server.post(self._dialect.abort_path, {"rid": request_id})
        except (BackendUnavailableError, TimeoutError) as error:
            log.warning("a call was abandoned, and its server could not be told: %s", error)


class _Reader:
    """Reads the chunks of a completion, or of a chat's ``turn``.

    A server that parses reasoning tells it apart from the answer, and leaves out the mark between them: it is put back.
    """

    def __init__(self, turn: Turn | None) -> None:
        """Read from the beginning."""
        self._think_end = turn.think_end if turn is not None else ""
        self._parsed = False

    def read(self, choices: Any) -> tuple[str, str, str | None]:
        """Return what to put before a chunk's text, its text, and why the generation ended where it did."""
        before, text, reason = "", "", None
        for choice in choices:
            delta = choice.get("delta") or {}
            thought = str(delta.get("reasoning_content") or delta.get("reasoning") or "")
            said = str(choice.get("text") or delta.get("content") or "")
            self._parsed = self._parsed or bool(thought)
            if said and self._parsed:
                before, thought, self._parsed = thought + self._think_end, "", False
            text += thought + said
            reason = choice.get("finish_reason") or reason
        return before, text, reason


def parameters(call: Call, sampling: Sampling, model: str) -> dict[str, Any]:
    """Return the request, but for its text. ``top_k`` is no OpenAI parameter, but all of these servers take it."""
    wanted: dict[str, Any] = {
        "model": model or "default",
        "max_tokens": call.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    if call.stop:
        wanted["stop"] = list(call.stop[:4])
    if call.thinking_budget:
        wanted["thinking_token_budget"] = call.thinking_budget
    return wanted | sampling.given()


def _messages(call: Call, dialect: Dialect) -> dict[str, Any]:
    """The call as a chat; a message that the assistant has begun is gone on with."""
    if call.turn is None:
        return {"messages": [{"role": "user", "content": call.prompt}]}
    messages = [{"role": "user", "content": call.turn.user}]
    if not call.turn.begun:
        return {"messages": messages}
    messages.append({"role": "assistant", "content": call.turn.begun})
    return {"messages": messages, **(dialect.continues or {})}


def stream_error(error: Any, url: str) -> Exception:
    """Return our error for an ``error`` event: an object with a code, TGI's with ``http_status_code``, or a text."""
    if not isinstance(error, dict):
        return BackendUnavailableError(f"{url}: {error}")
    code = error.get("code") or error.get("http_status_code") or 500
    return http_error(int(code) if str(code).isdigit() else 500, str(error.get("message", error)), url)
