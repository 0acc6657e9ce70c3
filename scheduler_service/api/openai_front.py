"""An OpenAI-compatible HTTP front, so that an existing OpenAI client needs only another base URL.

``POST /v1/chat/completions`` (whole or streamed), ``GET /v1/models``, ``GET /health``. A request goes the way of a gRPC
``Generate``: the same intake, pipeline and errors. Reasoning comes as ``reasoning_content``, as other reasoning servers
send it; what became of the budget stands in ``usage`` under ``predictive_scheduling``. Who calls is asked before a body
is read. With TLS on, it speaks TLS, and asks for the client certificates that gRPC asks for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from aiohttp import web
from opentelemetry import trace

from predictive_scheduling.credentials import TlsFiles
from predictive_scheduling.incoming import context_of
from predictive_scheduling.running_calls import CallsEndedError, RunningCalls
from scheduler_service.api.generations import Generations
from scheduler_service.api.guarded_site import GuardedServer, Handler, HttpLimits
from scheduler_service.api.intake import Credentials, Intake
from scheduler_service.api.openai_request import ChatRequest, parse
from scheduler_service.api.statuses import status_of
from scheduler_service.domain import (
    Allocation,
    DeadlineError,
    DrainingError,
    Event,
    FinishReason,
    InvalidRequestError,
    SchedulingError,
    Text,
    TextKind,
    Usage,
)

log = logging.getLogger(__name__)

_CHAT = "/v1/chat/completions"
_TIMEOUT_HEADER = "X-Request-Timeout"  # seconds; HTTP has no deadlines of its own
_TELLING_SECONDS = 2.0  # for the last answers of a drain


class OpenAiFront:
    """Serves a scheduler over HTTP. ``leaving``: whether health says no."""

    def __init__(
        self,
        generations: Generations,
        intake: Intake,
        tracer: trace.Tracer,
        calls: RunningCalls | None = None,
        *,
        leaving: Callable[[], bool] = lambda: False,
        drain_seconds: float = 1.0,
        limits: HttpLimits | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        """Run as ``generations`` what comes by ``intake``, within ``limits``.

        ``calls``: where requests are counted, which ends those that outlast a drain of ``drain_seconds``. ``tls``: the
        certificate to serve with; ``None`` for plain HTTP.
        """
        self._generations, self._intake, self._tracer = generations, intake, tracer
        self._calls, self._leaving = calls or RunningCalls(), leaving
        self._limits, self._tls = limits or HttpLimits(), tls
        routes = {
            ("POST", _CHAT): self._complete,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): self._health,
        }
        self._server = GuardedServer(
            routes,
            self._limits,
            guard=self._guarded,
            tls=tls,
            # A client that leaves cancels its handler, which frees the backend's slot.
            handler_cancellation=True,
            shutdown_timeout=drain_seconds + _TELLING_SECONDS,
            keepalive_timeout=self._limits.keep_alive_seconds,
        )

    @property
    def port(self) -> int:
        """Where it listens; 0 before it does."""
        return self._server.port

    async def start(self, address: str) -> None:
        """Listen on ``host:port``. Raises OSError where the address is taken, or a file of TLS cannot be read."""
        await self._server.start(address)
        log.info("OpenAI-compatible front on port %d, %s", self.port, "plain" if self._tls is None else "TLS")

    async def stop(self) -> None:
        """Stop listening, and let running requests end; those that take too long are cancelled."""
        await self._server.stop()

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer whatever goes wrong before a response has begun in OpenAI's form."""
        try:
            return await handler(request)
        except ConnectionError:  # the client left; aiohttp knows what to do
            raise
        except web.HTTPException as error:  # no such path, no such method
            return _answer(error.status, error.reason, "invalid_request_error")
        except Exception as error:
            return _refusal(error)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self._leaving() else 200)

    async def _models(self, request: web.Request) -> web.Response:
        self._intake.tenant(_credentials(request))
        model = {"id": self._intake.served.model, "object": "model", "created": 0, "owned_by": "predictive-scheduling"}
        return web.json_response({"object": "list", "data": [model]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        context = context_of(request.headers.items())
        with self._tracer.start_as_current_span(f"POST {_CHAT}", context=context, kind=trace.SpanKind.SERVER):
            self._calls.came()
            who = _credentials(request)
            self._intake.admit(who)
            seconds = _seconds(request.headers.get(_TIMEOUT_HEADER))
            in_time = partial(self._in_time, None if seconds is None else asyncio.get_running_loop().time() + seconds)
            async with in_time():
                asked = parse(await self._body(request))
                job = self._intake.job(asked.message(), who, seconds, asked.completion_tokens)
                job = replace(job, allocation_may_follow=True)
            async with aclosing(self._generations.stream(job)) as events:
                async with in_time():
                    first = await anext(events)  # refusals come before it, and still have a status of their own
                    whole = _begun_with(first, events)
                    if not asked.stream:
                        return web.json_response(await self._whole(job.request_id, whole))
                return await self._stream(request, self._frames(asked, job.request_id, whole), in_time)

    async def _body(self, request: web.Request) -> bytes:
        """The body, within its limits of time and size."""
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                return await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout(reason="the body did not come in time") from None
        except web.RequestPayloadError:
            raise InvalidRequestError("body", "is not encoded as its Content-Encoding says") from None

    @asynccontextmanager
    async def _in_time(self, until: float | None) -> AsyncIterator[None]:
        """End what goes on after ``until`` (the loop's clock), or longer than a drain lets it.

        Raises DeadlineError or DrainingError.
        """
        limit = asyncio.timeout_at(until)
        try:
            async with self._calls.running(), limit:
                yield
        except CallsEndedError as error:
            raise DrainingError(str(error)) from None
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineError(f"the time of {_TIMEOUT_HEADER} is over") from None

    async def _whole(self, request_id: str, events: AsyncIterator[Event]) -> dict[str, Any]:
        words = {TextKind.REASONING: "", TextKind.ANSWER: ""}
        async for event in events:
            match event:
                case Allocation():
                    allocation = event
                case Text():
                    words[event.kind] += event.text
                case Usage():
                    usage = event
        answer = {
            "role": "assistant",
            "content": words[TextKind.ANSWER],
            "reasoning_content": words[TextKind.REASONING],
        }
        choice = {"index": 0, "message": answer, "logprobs": None, "finish_reason": _finish(usage)}
        found = self._frame(request_id, "chat.completion", [choice])
        return {**found, "usage": _usage(allocation, usage)}

    async def _stream(
        self,
        request: web.Request,
        frames: AsyncGenerator[dict[str, Any]],
        in_time: Callable[[], AbstractAsyncContextManager[None]],
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        try:
            async with in_time(), aclosing(frames):
                async for frame in frames:
                    await self._send(request, response, json.dumps(frame))
        except ConnectionError:  # the client has left
            raise
        except Exception as error:  # too late for a status: the stream says it
            await self._send(request, response, json.dumps(_told(error)[1]))
        await self._send(request, response, "[DONE]")
        await response.write_eof()
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, data: str) -> None:
        """Write an event; a client that does not take it in time is cut off."""
        try:
            async with asyncio.timeout(self._limits.write_seconds):
                await response.write(f"data: {data}\n\n".encode())
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the client does not read") from None

    async def _frames(
        self, asked: ChatRequest, request_id: str, events: AsyncIterator[Event]
    ) -> AsyncGenerator[dict[str, Any]]:
        """The events as OpenAI's chunks."""

        def frame(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return self._frame(request_id, "chat.completion.chunk", [choice])

        yield frame({"role": "assistant", "content": ""})
        async for event in events:
            match event:
                case Allocation():
                    allocation = event
                case Text() if event.text:
                    yield frame({"content" if event.kind is TextKind.ANSWER else "reasoning_content": event.text})
                case Usage():
                    yield frame({}, _finish(event))
                    if asked.stream_options.include_usage:
                        usage = _usage(allocation, event)
                        yield {**self._frame(request_id, "chat.completion.chunk", []), "usage": usage}

    def _frame(self, request_id: str, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{request_id}",
            "object": kind,
            "created": int(time.time()),
            "model": self._intake.served.model,
            "choices": choices,
        }


async def _begun_with(first: Event, events: AsyncGenerator[Event]) -> AsyncIterator[Event]:
    yield first
    async for event in events:
        yield event


def _credentials(request: web.Request) -> Credentials:
    """What a request brings to say who makes it."""
    certificate = request.get_extra_info("peercert") or {}
    names = [value for pairs in certificate.get("subject", ()) for key, value in pairs if key == "commonName"]
    return Credentials(request.headers.get("Authorization", ""), next(iter(names), ""))


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise InvalidRequestError(_TIMEOUT_HEADER, f"{text!r} is not a number of seconds")
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


def _told(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of an error, as OpenAI's clients read them."""
    if not isinstance(error, SchedulingError):
        log.error("a request failed by a fault of ours", exc_info=error)
    status = status_of(error)
    headers: dict[str, str] = {}
    if status.retry_seconds is not None:
        headers["Retry-After"] = f"{math.ceil(status.retry_seconds)}"
    if status.row.http == 401:
        headers["WWW-Authenticate"] = "Bearer"
    param = _param(status.fields[0][0]) if status.fields else None
    return status.row.http, _body(status.message, status.row.kind, param), headers


def _param(field: str) -> str:
    """A field of the proto as it stands in a body."""
    return field.removeprefix("job.").removeprefix("sampling.")


def _body(message: str, kind: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


def _refusal(error: Exception) -> web.Response:
    status, body, headers = _told(error)
    return web.json_response(body, status=status, headers=headers)


def _answer(status: int, message: str, kind: str) -> web.Response:
    return web.json_response(_body(message, kind), status=status)
