"""OpenAI-compatible servers (vLLM, SGLang, llama.cpp, TGI): raw prompts, or chats that go on with a message."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from scheduler_service.domain import BackendUnavailableError, PreconditionError, Sampling
from scheduler_service.generation.backends.base import BackendConfiguration, Capabilities, Ended, Limits, Piece
from scheduler_service.generation.backends.faults import ServerFault, http_error
from scheduler_service.generation.backends.http import HttpBackend, HttpServer
from scheduler_service.generation.backends.wire import ErrorObject, Wire
from scheduler_service.generation.forcing import Call, CallEnd, Turn

log = logging.getLogger(__name__)

_ABORT_SECONDS = 1.0
_FAILED = frozenset({"abort", "error"})  # finish reasons of SGLang, vLLM and gateways that are no end of an answer


@dataclass(frozen=True)
class Dialect:
    """Where the servers differ.

    ``abort_path``: where a call that was abandoned is named (SGLang may go on with it otherwise). ``continues``: the
    chat parameters that make the server go on with the assistant's last message. ``has_priority``: it takes a call's
    priority, of which lower numbers go first.
    """

    name: str
    abort_path: str = ""
    continues: Mapping[str, bool] | None = None
    has_priority: bool = False


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("openai"),  # TGI goes on with the assistant's message unasked
        Dialect("vllm", continues={"continue_final_message": True, "add_generation_prompt": False}, has_priority=True),
        Dialect("sglang", abort_path="/abort_request", continues={"continue_final_message": True}),
    )
}


def make(url: str, configuration: BackendConfiguration) -> OpenAiBackend:
    """A backend for one address, in the dialect that is configured; gateways tell theirs with ``/v1`` at its end."""
    return OpenAiBackend(
        HttpServer(
            url.rstrip("/").removesuffix("/v1"), token=configuration.token, idle_seconds=configuration.idle_seconds
        ),
        DIALECTS[configuration.kind],
        model=configuration.model,
        ready_seconds=configuration.ready_seconds,
        chat=configuration.chat,
        thinking_budget=configuration.thinking_budget,
    )


class OpenAiBackend(HttpBackend):
    """One server. ``model``: the name to ask for, listed or not; empty takes the first that the server lists.

    ``chat``: use ``/v1/chat/completions``, where the server's own template is applied. ``thinking_budget``: let the
    server end the thinking (vLLM with ``--reasoning-config``).

    Tokens are counted by the server's running usage where it sends one (vLLM, SGLang: ``continuous_usage_stats``), else
    one a chunk; what its last usage says beyond that is added at the end. A count that cannot be true is dropped.
    """

    ready_instead = "/v1/models"

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
        """Read ``/v1/models``; vLLM and SGLang say there how long a context may be.

        A name that the operator gives is believed, with a warning where it is not listed: gateways, and servers that
        load on demand, do not list all that they serve.
        """
        try:
            models = (await self._server.get("/v1/models", _Models)).data or ()
        except BackendUnavailableError as error:
            if not self._model or not await self._server.ready("/health", self.ready_instead):
                raise
            log.warning("%s; model %r is asked for all the same", error, self._model)
            return Limits(model=self._model)
        if not self._model:
            if not models:
                raise BackendUnavailableError(
                    f"{self._server.url}/v1/models lists no model: set backend_model to the name to ask for"
                )
            self._model = models[0].id
        lengths = {entry.id: entry.max_model_len or 0 for entry in models}
        found = next((entry for entry in models if entry.id == self._model), None)
        if found is None:
            known = ", ".join(lengths) or "none"
            log.warning("%s lists no model %r (%s); it is asked for", self._server.url, self._model, known)
            return Limits(model=self._model)
        context = max(0, lengths[found.id] or lengths.get(found.parent or "", 0))  # an adapter has its base's
        return Limits(model=self._model, max_total_tokens=context, max_prompt_tokens=context)

    async def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        """Run one call; the end is yielded once the stream is over, since usage comes after the finish reason."""
        body = parameters(call, sampling, self._model)
        if self.capabilities.chat:
            path, reader = "/v1/chat/completions", _Reader(call.turn)
            body |= _messages(call, self._dialect)
        else:
            path, reader = "/v1/completions", _Reader(None)
            body["prompt"] = call.prompt
        if self._dialect.abort_path:
            body["rid"] = uuid.uuid4().hex
        if call.priority and self._dialect.has_priority:
            body["priority"] = call.priority
        bounds = self._server.bounds(call)
        prompt_tokens: int | None = None
        end: CallEnd | None = None
        try:
            with self._server.translated(call.prompt):
                async for event in self._server.events(path, body, headers, _Chunk, bounds):
                    if event.error is not None:
                        raise stream_error(event.error, begun=bounds.counted > 0)
                    usage = event.usage or _NO_USAGE
                    prompt_tokens = usage.prompt_tokens or prompt_tokens
                    before, text, reason = reader.read(event.choices or ())
                    tokens = bounds.tokens(usage.completion_tokens, text)
                    if before:  # its token came before, without text, or comes with the first of the answer
                        yield bounds.piece(before, int(tokens > 1))
                        tokens -= tokens > 1
                    if text or tokens:
                        yield bounds.piece(text, tokens)
                    if reason in _FAILED:
                        raise ServerFault("aborted the request")
                    if reason is not None:
                        end = CallEnd.LENGTH if reason == "length" else CallEnd.MODEL
                        bounds.ending()
                if end is None:
                    raise ServerFault("ended its stream before the last event")
        except BackendUnavailableError:
            if end is None:
                raise  # else the answer is whole, and only its usage is missing
        finally:
            if end is None and self._dialect.abort_path:
                await self._abort(str(body["rid"]))
        with self._server.translated(call.prompt):
            if end is CallEnd.LENGTH and bounds.uncounted:
                yield bounds.piece("", bounds.uncounted)
            yield bounds.ended(end, prompt_tokens)

    async def _abort(self, request_id: str) -> None:
        """Tell the server to end a call that was abandoned; it may have seen the connection close already."""
        with suppress(BackendUnavailableError, PreconditionError), self._server.translated():
            async with asyncio.timeout(_ABORT_SECONDS):
                await self._server.post(self._dialect.abort_path, {"rid": request_id})


class _Model(Wire):
    id: str = ""
    parent: str | None = None
    max_model_len: int | None = None


class _Models(Wire):
    """What ``/v1/models`` says."""

    data: tuple[_Model, ...] | None = None


class _Delta(Wire):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(Wire):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(Wire):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(Wire):
    """A chunk of a completion or of a chat, with running usage where the server sends it; or an error."""

    choices: tuple[_Choice, ...] | None = None
    usage: _Usage | None = None
    error: str | ErrorObject | None = None


_NO_DELTA, _NO_USAGE = _Delta(), _Usage()


class _Reader:
    """Reads the chunks of a completion, or of a chat's ``turn``.

    A server that parses reasoning tells it apart from the answer, and leaves out the mark between them: it is put back.
    """

    def __init__(self, turn: Turn | None) -> None:
        """Read from the beginning."""
        self._think_end = turn.think_end if turn is not None else ""
        self._parsed = False

    def read(self, choices: Sequence[_Choice]) -> tuple[str, str, str | None]:
        """Return what to put before a chunk's text, its text, and why the generation ended where it did."""
        before, text, reason = "", "", None
        for choice in choices:
            delta = choice.delta or _NO_DELTA
            thought = delta.reasoning_content or delta.reasoning or ""
            said = choice.text or delta.content or ""
            if choice.finish_reason == "eos_token":  # TGI's completions; their text is the mark of the end
                said = ""
            self._parsed = self._parsed or bool(thought)
            if said and self._parsed:
                before, thought, self._parsed = thought + self._think_end, "", False
            text += thought + said
            reason = choice.finish_reason or reason
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
    if call.special_tokens:  # of vLLM and SGLang, too; sent where the template's marks would be left out without it
        wanted["skip_special_tokens"] = False
    if call.report is not None:  # vLLM hands these parameters to its connector
        asked = {"to": call.report.to, "id": call.report.id, "layers": list(call.report.layers)}
        wanted["kv_transfer_params"] = {"prompt_state": asked}
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


def stream_error(error: str | ErrorObject, *, begun: bool = False) -> ServerFault | PreconditionError:
    """Return our error for an ``error`` event: an object with a code, or a text.

    ``begun``: tokens have come, so that it is no refusal, whatever it says: SGLang says 400 of any failure in a stream.
    """
    if isinstance(error, str):
        return ServerFault("failed while it generated", error)
    translated = http_error(error.status, error.message or "")
    if begun and isinstance(translated, PreconditionError):
        return ServerFault("failed while it generated", error.message or "")
    return translated
