"""PredictStream: requests as they come, answers as they are ready, a burst of either in one message.

Theory of operation. One task reads. Each request that it reads is offered to ``Predictions`` with a callback, so no
request has a task of its own; several of one message run as one batch. Whatever is answered lands in ``_ready`` and
wakes the writer, which is the call's own task: it sends all that is ready in one message. A request counts as
unanswered until its answer has been written, and the reader waits while too many are: thus a client that does not read
is not read either.

A drain is said once. Then the client closes its side, or ``patience`` seconds pass; either way reading ends, what has
been read is answered, and the stream ends with OK.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from predictive_scheduling.interceptors import MeasuredCall, StreamedCalls
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from predictive_scheduling.rpc_errors import abort_invalid, violations
from predictor_service.admission import RefusedQueryError
from predictor_service.batching.batcher import QueueFullError
from predictor_service.model import ModelFailedError
from predictor_service.predictions import Answer, Predictions
from predictor_service.wire.messages import query_of, response_of

log = logging.getLogger(__name__)

MOST_UNANSWERED = 1024  # queries of one stream
_MOST_REQUESTS = 1024  # of one message
_MESSAGE_BYTES = 1 << 20  # of answers, after which a message is full
_MOST_ANSWER_BYTES = (4 << 20) - 4096  # what a gRPC client takes by default, less what is around the answer

_Context = grpc.aio.ServicerContext[Any, Any]


class _Pending:
    """A request that has been read and is not answered yet."""

    __slots__ = ("call", "give_up", "id", "queries", "timer")

    def __init__(self, request_id: int, queries: int, call: MeasuredCall) -> None:
        self.id, self.queries, self.call = request_id, queries, call
        self.give_up: Callable[[], object] | None = None
        self.timer: asyncio.TimerHandle | None = None


class PredictionStream:
    """One call of PredictStream."""

    def __init__(
        self,
        predictions: Predictions,
        calls: StreamedCalls,
        context: _Context,
        draining: asyncio.Event,
        patience: float,
    ) -> None:
        """Answer ``context``'s requests; ``patience``: seconds in which a client may hear of ``draining``."""
        self._predictions, self._calls, self._context = predictions, calls, context
        self._draining, self._patience = draining, patience
        self._pending: set[_Pending] = set()
        self._ready: deque[tuple[pb.StreamedAnswer, int]] = deque()  # with the size of the request in queries
        self._unanswered = 0
        self._all_read = False
        self._drain_to_say = False
        self._fault = ""
        self._wake, self._room = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Answer until the client closes its side, or leaves, or the server drains."""
        await self._context.send_initial_metadata(())  # which tells the client that the stream is open
        reading, watching = asyncio.create_task(self._read()), asyncio.create_task(self._watch())
        try:
            await self._write(reading)
        finally:
            reading.cancel()
            watching.cancel()
            await asyncio.gather(reading, watching, return_exceptions=True)  # a read fails where the client has left
            for pending in list(self._pending):
                self._finish(pending, grpc.StatusCode.CANCELLED)
                if pending.give_up is not None:
                    pending.give_up()
        if self._fault:
            await abort_invalid(self._context, [("request", self._fault)])

    async def _read(self) -> None:
        try:
            while not self._fault:
                while self._unanswered >= MOST_UNANSWERED:
                    self._room.clear()
                    await self._room.wait()
                try:
                    message = await self._context.read()
                except DecodeError as error:
                    self._fault = f"is no message of this method: {error}"
                    return
                if message is grpc.aio.EOF:
                    return
                self._take(message)
        finally:
            self._all_read = True
            self._wake.set()

    async def _watch(self) -> None:
        """Say that the server drains, and read no more when the client has had time to hear it."""
        await self._draining.wait()
        self._drain_to_say = True
        self._wake.set()
        await asyncio.sleep(self._patience)
        self._all_read = True
        self._wake.set()

    async def _write(self, reading: asyncio.Task[None]) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._ready:
                message, queries = self._message()
                await self._context.write(message)
                self._unanswered -= queries
                self._room.set()
            if self._drain_to_say:
                self._drain_to_say = False
                await self._context.write(pb.PredictStreamResponse(draining=True))
            if self._all_read and not reading.done():  # the client has had its time
                reading.cancel()
            if self._all_read and not self._pending and not self._ready:
                return

    def _message(self) -> tuple[pb.PredictStreamResponse, int]:
        """What is ready as one message, as far as it fits, and how many queries it answers."""
        message, queries, size = pb.PredictStreamResponse(), 0, 0
        while self._ready and size < _MESSAGE_BYTES:
            size += self._ready[0][0].ByteSize()
            if queries and size > _MOST_ANSWER_BYTES:
                break
            answer, count = self._ready.popleft()
            message.answers.append(answer)
            queries += count
        return message, queries

    def _take(self, message: pb.PredictStreamRequest) -> None:
        count = len(message.requests)
        if not 0 < count <= _MOST_REQUESTS:
            self._fault = f"requests: has {count}, not 1 to {_MOST_REQUESTS}"
            return
        for one in message.requests:
            pending = _Pending(one.id, max(1, len(one.request.queries)), self._calls.begin(one.trace_context))
            self._unanswered += pending.queries
            self._pending.add(pending)
            try:
                self._start(one, pending, alone=count == 1)
            except Exception as error:  # a request that fails must not end the stream of all others
                self._answered(pending, error)

    def _start(self, one: pb.StreamedRequest, pending: _Pending, *, alone: bool) -> None:
        if broken := violations(one):
            name, why = broken[0]
            raise RefusedQueryError(name.removeprefix("request."), why, precondition=False)
        request = one.request
        give_up = self._predictions.begin(
            request.model,
            [query_of(query) for query in request.queries],
            [query.hidden_state.layer for query in request.queries],
            lambda answer: self._answered(pending, answer),
            span=pending.call.span,
            alone=alone,
        )
        if pending in self._pending:
            pending.give_up = give_up
            if one.timeout_ms:
                loop = asyncio.get_running_loop()
                pending.timer = loop.call_later(one.timeout_ms / 1000, self._too_late, pending)

    def _too_late(self, pending: _Pending) -> None:
        if pending in self._pending:
            if pending.give_up is not None:
                pending.give_up()
            self._fail(pending, grpc.StatusCode.DEADLINE_EXCEEDED, "the request's time has passed")

    def _answered(self, pending: _Pending, answer: Answer | Exception) -> None:
        if pending not in self._pending:
            return
        if isinstance(answer, Exception):
            self._fail(pending, *_status(answer))
            return
        said = pb.StreamedAnswer(id=pending.id, response=response_of(answer))
        if pending.queries > 1 and said.ByteSize() > _MOST_ANSWER_BYTES:
            why = f"its predictions have more than {_MOST_ANSWER_BYTES} bytes: ask for fewer queries at once"
            self._fail(pending, grpc.StatusCode.RESOURCE_EXHAUSTED, why)
            return
        self._finish(pending, grpc.StatusCode.OK)
        self._say(said, pending)

    def _fail(self, pending: _Pending, code: grpc.StatusCode, why: str) -> None:
        self._finish(pending, code)
        self._say(pb.StreamedAnswer(id=pending.id, error=pb.StreamedError(code=code.value[0], message=why)), pending)

    def _say(self, answer: pb.StreamedAnswer, pending: _Pending) -> None:
        self._ready.append((answer, pending.queries))
        self._wake.set()

    def _finish(self, pending: _Pending, code: grpc.StatusCode) -> None:
        self._pending.discard(pending)
        if pending.timer is not None:
            pending.timer.cancel()
        pending.call.finish(code)


def _status(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status that Predict ends with for an error, in words that name the field."""
    if isinstance(error, ModelFailedError):
        return grpc.StatusCode.FAILED_PRECONDITION, "model: its graph cannot run these queries"
    if isinstance(error, QueueFullError):
        return grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
    if isinstance(error, RefusedQueryError):
        invalid = grpc.StatusCode.FAILED_PRECONDITION if error.precondition else grpc.StatusCode.INVALID_ARGUMENT
        return invalid, str(error)
    log.error("a request on a stream failed", exc_info=error)
    return grpc.StatusCode.UNKNOWN, "the server failed"
