"""An OpenAI-compatible HTTP front, so that an existing OpenAI client needs only another base URL.

``POST /v1/chat/completions`` (whole or streamed), ``GET /v1/models``, ``GET /health``. A request goes the way of a gRPC
``Generate``: the same checks, pipeline and errors. Reasoning comes as ``reasoning_content``, as other reasoning servers
send it; what became of the budget stands in ``usage`` under ``predictive_scheduling``. Fields of our own in the
request, such as ``max_reasoning_tokens``, are those of the proto's ``Job``.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from aiohttp import web
from google.protobuf.json_format import ParseDict, ParseError
from opentelemetry import propagate, trace

from predictive_scheduling.rpc_errors import violations
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from scheduler_service.api.generations import Generations
from scheduler_service.api.identity import Identity
from scheduler_service.api.servicer import Offer
from scheduler_service.domain import (
    Allocation,
    BackendUnavailableError,
    DrainingError,
    Event,
    FinishReason,
    InvalidRequestError,
    OverloadedError,
    PermissionDeniedError,
    PreconditionError,
    QuotaExceededError,
    SchedulingError,
    SlowReaderError,
    Text,
    TextKind,
    UnauthenticatedError,
    Usage,
)
from scheduler_service.pipeline import Pipeline

log = logging.getLogger(__name__)

_OURS = ("min_reasoning_tokens", "max_reasoning_tokens", "tenant", "priority", "traces", "request_id")
_SAMPLING = ("temperature", "top_p", "top_k", "seed")
_TIMEOUT_HEADER = "X-Request-Timeout"  # seconds; HTTP has no deadlines of its own
_MAX_BODY = 4 << 20


class OpenAiFront:
    """Serves one pipeline over HTTP. ``leaving``: whether health says no; ``draining``: whether new work is refused."""

    def __init__(
        self,
        pipeline: Pipeline,
        generations: Generations,
        offer: Offer,
        tracer: trace.Tracer,
        leaving: Callable[[], bool] = lambda: False,
        draining: Callable[[], bool] = lambda: False,
        identity: Identity | None = None,
        drain_seconds: float = 1.0,
    ) -> None:
        """Serve ``pipeline`` within ``offer``, to whom ``identity`` lets in by a bearer token.

        ``stop`` lets running requests end within ``drain_seconds``.
        """
        self._identity, self._leaving = identity or Identity(), leaving
        self._generations = generations
        self._pipeline, self._offer, self._tracer, self._draining = pipeline, offer, tracer, draining
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        # A client that leaves cancels its handler, which frees the backend's slot.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=drain_seconds)
        self.port = 0

    async def start(self, address: str) -> None:
        """Listen on ``host:port``. Raises OSError where the address is taken."""
        host, _, port = address.rpartition(":")
        await self._runner.setup()
        site = web.TCPSite(self._runner, host or None, int(port))
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        log.info("OpenAI-compatible front on port %d", self.port)

    async def stop(self) -> None:
        """Stop listening, and let running requests end; those that take too long are cancelled."""
        await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self._leaving() else 200)

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": self._offer.model, "object": "model", "created": 0, "owned_by": "predictive-scheduling"}
        return web.json_response({"object": "list", "data": [model]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        context = propagate.extract(dict(request.headers))
        name = "POST /v1/chat/completions"
        with self._tracer.start_as_current_span(name, context=context, kind=trace.SpanKind.SERVER):
            try:
                body = await _json(request)
                async with aclosing(self._events(body, request.headers)) as events:
                    first = await anext(events)  # refusals come before it, and still have a status of their own
                    if not isinstance(first, Allocation):
                        raise TypeError("the first event is the allocation")
                    if body.get("stream"):
                        return await self._stream(request, body, first, events)
                    return web.json_response(await self._whole(first, events))
            except SchedulingError as error:
                return _refusal(error)

    def _events(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> AsyncGenerator[Event]:
        if self._draining():
            raise DrainingError("the scheduler is shutting down")
        message = _job(body)
        if broken := violations(message):
            raise InvalidRequestError(*broken[0])
        job = self._offer.job(message)
        most = body.get("max_completion_tokens", body.get("max_tokens"))
        if most is not None:
            job = replace(job, cap_tokens=_reasoning_of(most, self._pipeline.rules.answer_tokens, job.cap_tokens))
            job = replace(job, floor_tokens=min(job.floor_tokens, job.cap_tokens))
        job = replace(job, tenant=self._identity.tenant(headers.get("Authorization", ""), "", message.tenant))
        if seconds := headers.get(_TIMEOUT_HEADER):
            job = replace(job, deadline=self._pipeline.clock() + _seconds(seconds))
        return self._generations.stream(job)

    async def _whole(self, allocation: Allocation, events: AsyncGenerator[Event]) -> dict[str, Any]:
        words = {TextKind.REASONING: "", TextKind.ANSWER: ""}
        async for event in events:
            if isinstance(event, Text):
                words[event.kind] += event.text
            elif isinstance(event, Usage):
                usage = event
        answer = {
            "role": "assistant",
            "content": words[TextKind.ANSWER],
            "reasoning_content": words[TextKind.REASONING],
        }
        choice = {"index": 0, "message": answer, "logprobs": None, "finish_reason": _finish(usage)}
        found = self._frame(allocation, "chat.completion", [choice])
        return {**found, "usage": _usage(allocation, usage)}

    async def _stream(
        self, request: web.Request, body: Mapping[str, Any], allocation: Allocation, events: AsyncGenerator[Event]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)

        async def send(choices: list[dict[str, Any]], **more: Any) -> None:
            frame = {**self._frame(allocation, "chat.completion.chunk", choices), **more}
            await response.write(f"data: {json.dumps(frame)}\n\n".encode())

        await send([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        try:
            async for event in events:
                if isinstance(event, Text) and event.text:
                    field = "content" if event.kind is TextKind.ANSWER else "reasoning_content"
                    await send([{"index": 0, "delta": {field: event.text}, "finish_reason": None}])
                elif isinstance(event, Usage):
                    await send([{"index": 0, "delta": {}, "finish_reason": _finish(event)}])
                    if (body.get("stream_options") or {}).get("include_usage"):
                        await send([], usage=_usage(allocation, event))
        except SchedulingError as error:  # too late for a status: the stream says it
            await response.write(f"data: {json.dumps(_error(error)[1])}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _frame(self, allocation: Allocation, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{allocation.request_id}",
            "object": kind,
            "created": int(time.time()),
            "model": self._offer.model,
            "choices": choices,
        }


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidRequestError("body", f"not JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidRequestError("body", "must be a JSON object")
    return body


def _job(body: Mapping[str, Any]) -> pb.Job:
    """The request as a job of the gRPC API. Raises InvalidRequestError naming the field."""
    if body.get("n", 1) != 1:
        raise InvalidRequestError("n", "only one choice is made; traces votes over several")
    fields = {name: body[name] for name in _OURS if body.get(name) is not None}
    fields["sampling"] = {name: body[name] for name in _SAMPLING if body.get(name) is not None}
    fields["prompt"] = prompt_of(body.get("messages"))
    if body.get("model"):
        fields["model"] = body["model"]
    try:
        return ParseDict(fields, pb.Job())
    except ParseError as error:
        raise InvalidRequestError("body", str(error)) from None


def prompt_of(messages: Any) -> str:
    """The prompt of chat messages: a lone user message as it is, several each after its role.

    The model's own template goes around it. Raises InvalidRequestError for what is no list of messages with text.
    """
    if not isinstance(messages, list) or not messages:
        raise InvalidRequestError("messages", "must be a list of one message at least")
    texts = [(str(_field(message, at, "role")), _text(message, at)) for at, message in enumerate(messages)]
    if len(texts) == 1:
        return texts[0][1]
    return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in texts)


def _field(message: Any, at: int, name: str) -> Any:
    if not isinstance(message, dict) or message.get(name) is None:
        raise InvalidRequestError(f"messages[{at}].{name}", "is missing")
    return message[name]


def _text(message: Any, at: int) -> str:
    content = _field(message, at, "content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        raise InvalidRequestError(f"messages[{at}].content", "must be text, or a list of text parts")
    return "".join(part["text"] for part in parts)


def _reasoning_of(most: Any, answer_tokens: int, cap: int) -> int:
    """The largest reasoning budget within OpenAI's limit, which counts reasoning and answer together."""
    if not isinstance(most, int) or most < 1:
        raise InvalidRequestError("max_completion_tokens", "must be a whole number from 1")
    return max(0, min(cap, most - answer_tokens))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise InvalidRequestError(_TIMEOUT_HEADER, f"{text!r} is no number of seconds")
    return seconds


def _finish(usage: Usage) -> str:
    return "length" if usage.finish_reason is FinishReason.ANSWER_LENGTH else "stop"


def _usage(allocation: Allocation, usage: Usage) -> dict[str, Any]:
    completion = usage.reasoning_tokens + usage.answer_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": usage.prompt_tokens + completion,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "predictive_scheduling": {
            "policy": allocation.policy,
            "reasoning_budget_tokens": usage.reserved_tokens,
            "baseline_tokens": allocation.baseline_tokens,
            "expected_accuracy": allocation.expected_accuracy,
            "prediction_outcome": allocation.prediction.outcome.value,
            "price": allocation.price,
            "tokens_saved_vs_cap": usage.saved_vs_cap_tokens,
            "forced": usage.finish_reason is not FinishReason.NATURAL,
            "traces": usage.traces,
            "votes": usage.votes,
        },
    }


def _error(error: SchedulingError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of an error, as OpenAI's clients read them."""
    param, headers = None, {}
    match error:
        case PreconditionError():
            status, kind = (404 if error.field_name == "job.model" else 400), "invalid_request_error"
            param = error.field_name.removeprefix("job.")
        case InvalidRequestError():
            status, kind, param = 400, "invalid_request_error", error.field_name.removeprefix("job.")
        case QuotaExceededError():
            status, kind, headers = 429, "rate_limit_error", {"Retry-After": f"{math.ceil(error.retry_seconds)}"}
        case UnauthenticatedError():
            status, kind = 401, "authentication_error"
        case SlowReaderError():
            status, kind = 408, "timeout_error"
        case PermissionDeniedError():
            status, kind = 403, "permission_error"
        case OverloadedError():
            status, kind, headers = 429, "rate_limit_error", {"Retry-After": f"{error.retry_seconds:.0f}"}
        case BackendUnavailableError():
            status, kind, headers = 503, "server_error", {"Retry-After": f"{error.retry_seconds:.0f}"}
        case _:
            status, kind = 500, "server_error"
    return status, {"error": {"message": str(error), "type": kind, "param": param, "code": None}}, headers


def _refusal(error: SchedulingError) -> web.Response:
    status, body, headers = _error(error)
    return web.json_response(body, status=status, headers=headers)
