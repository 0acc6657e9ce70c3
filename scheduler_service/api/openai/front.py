"""An OpenAI-compatible HTTP front, so that an existing OpenAI client needs only another base URL.

``POST /v1/chat/completions`` and ``POST /v1/responses`` (whole or streamed), ``GET /v1/models``, ``GET /health``. A
request goes the way of a gRPC ``Generate``: the same intake, pipeline and errors. What became of the budget stands in
``usage`` under ``predictive_scheduling``. Who calls is asked before a body is read. With TLS on, it speaks TLS, and
asks for the client certificates that gRPC asks for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from aiohttp import web
from opentelemetry import trace

from predictive_scheduling.credentials import TlsFiles
from predictive_scheduling.incoming import context_of
from predictive_scheduling.running_calls import CallsEndedError, RunningCalls
from scheduler_service.api.generations import Generations
from scheduler_service.api.guarded_site import GuardedServer, Handler, HttpLimits
from scheduler_service.api.intake import Credentials, Intake
from scheduler_service.api.openai.answer import Answer, Fault, Frame, Json, Said
from scheduler_service.api.openai.chat_answer import ChatAnswer
from scheduler_service.api.openai.chat_request import ChatRequest, parse_chat
from scheduler_service.api.openai.request import GenerationRequest
from scheduler_service.api.openai.responses_answer import ResponsesAnswer
from scheduler_service.api.openai.responses_request import ResponsesRequest, parse_response
from scheduler_service.api.statuses import status_of
from scheduler_service.domain import DeadlineError, DrainingError, Event, InvalidRequestError, SchedulingError

log = logging.getLogger(__name__)

Request = TypeVar("Request", bound=GenerationRequest)


@dataclass(frozen=True)
class _Way(Generic[Request]):
    """A way of asking for a generation: its path, how its body is read, and how it is answered.

    ``answer`` takes the request, its id, the model's name and the time.
    """

    path: str
    parse: Callable[[bytes], Request]
    answer: Callable[[Request, str, str, int], Answer]


_WAYS: tuple[_Way[Any], ...] = (
    _Way[ChatRequest]("/v1/chat/completions", parse_chat, ChatAnswer),
    _Way[ResponsesRequest]("/v1/responses", parse_response, ResponsesAnswer),
)
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
        routes: dict[tuple[str, str], Handler] = {("POST", way.path): partial(self._generate, way) for way in _WAYS}
        routes |= {("GET", "/v1/models"): self._models, ("GET", "/health"): self._health}
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
            return web.json_response(Fault(error.reason, "invalid_request_error").body(), status=error.status)
        except Exception as error:
            return _refusal(error)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self._leaving() else 200)

    async def _models(self, request: web.Request) -> web.Response:
        self._intake.tenant(_credentials(request))
        model = {"id": self._intake.served.model, "object": "model", "created": 0, "owned_by": "predictive-scheduling"}
        return web.json_response({"object": "list", "data": [model]})

    async def _generate(self, way: _Way[Any], request: web.Request) -> web.StreamResponse:
        context = context_of(request.headers.items())
        with self._tracer.start_as_current_span(f"POST {way.path}", context=context, kind=trace.SpanKind.SERVER):
            self._calls.came()
            who = _credentials(request)
            self._intake.admit(who)
            seconds = _seconds(request.headers.get(_TIMEOUT_HEADER))
            in_time = partial(self._in_time, None if seconds is None else asyncio.get_running_loop().time() + seconds)
            async with in_time():
                asked: GenerationRequest = way.parse(await self._body(request))
                job = self._intake.job(asked.message(), who, seconds, asked.words())
                job = replace(job, allocation_may_follow=True)
            answer = way.answer(asked, job.request_id, self._intake.served.model, int(time.time()))
            async with aclosing(self._generations.stream(job)) as events:
                async with in_time():
                    first = await anext(events)  # refusals come before it, and still have a status of their own
                    whole = _begun_with(first, events)
                    if not asked.stream:
                        return web.json_response(await _whole(answer, whole))
                return await self._stream(request, answer, whole, in_time)

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

    async def _stream(
        self,
        request: web.Request,
        answer: Answer,
        events: AsyncGenerator[Event],
        in_time: Callable[[], AbstractAsyncContextManager[None]],
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        try:
            async with in_time(), aclosing(_frames(answer, events)) as frames:
                async for frame in frames:
                    await self._send(request, response, frame)
        except ConnectionError:  # the client has left
            raise
        except Exception as error:  # too late for a status: the stream says it
            for frame in answer.broken(_told(error)[1]):
                await self._send(request, response, frame)
        await response.write_eof()
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, frame: Frame) -> None:
        """Write an event; a client that does not take it in time is cut off."""
        try:
            async with asyncio.timeout(self._limits.write_seconds):
                await response.write(frame.encoded())
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the client does not read") from None


async def _begun_with(first: Event, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    yield first
    async for event in events:
        yield event


async def _whole(answer: Answer, events: AsyncGenerator[Event]) -> Json:
    said = Said()
    async for event in events:
        said.add(event)
    return answer.whole(said)


async def _frames(answer: Answer, events: AsyncGenerator[Event]) -> AsyncGenerator[Frame]:
    for frame in answer.opened():
        yield frame
    async for event in events:
        for frame in answer.add(event):
            yield frame


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


def _told(error: Exception) -> tuple[int, Fault, dict[str, str]]:
    """Status, fault and headers of an error, as OpenAI's clients read them."""
    if not isinstance(error, SchedulingError):
        log.error("a request failed by a fault of ours", exc_info=error)
    status = status_of(error)
    headers: dict[str, str] = {}
    if status.retry_seconds is not None:
        headers["Retry-After"] = f"{math.ceil(status.retry_seconds)}"
    if status.row.http == 401:
        headers["WWW-Authenticate"] = "Bearer"
    param = _param(status.fields[0][0]) if status.fields else None
    return status.row.http, Fault(status.message, status.row.kind, param), headers


def _param(field: str) -> str:
    """A field of the proto as it stands in a body."""
    return field.removeprefix("job.").removeprefix("sampling.")


def _refusal(error: Exception) -> web.Response:
    status, fault, headers = _told(error)
    return web.json_response(fault.body(), status=status, headers=headers)
