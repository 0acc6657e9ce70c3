"""The streams to the predictor that are kept open: who asks on which, and when another one is opened.

They are opened when a request comes and there are too few, so nothing runs while there is no traffic, and a request
never waits for one: it has a call of its own instead. The channel's round robin puts each new stream on the next
replica; a stream is exchanged once a minute, so that replicas that come get their share.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from predictive_scheduling.interceptors import StreamedCalls
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from scheduler_service.prediction.stream import (
    MOST_REQUEST_BYTES,
    FaultyStreamError,
    PredictionStream,
    StreamLostError,
)

log = logging.getLogger(__name__)

_STREAMS = 2
_MOST_SECONDS = 60.0  # of a stream
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 10.0
_WITHOUT_SECONDS = 60.0  # until a predictor that knows no streams is asked for one again

METHOD = f"{pb.DESCRIPTOR.services_by_name['PredictorService'].full_name}/PredictStream"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(eq=False)
class _Kept:
    """A stream and when it is to be exchanged."""

    stream: PredictionStream
    until: float


@dataclass
class Pause:
    """When a stream may be opened again: ever later while streams end before they have answered anything."""

    until: float = 0.0
    failures: int = 0

    def ended(self, now: float, *, answered: bool) -> None:
        """Note the end of a stream."""
        self.failures = 0 if answered else self.failures + 1
        if self.failures:
            self.until = max(
                self.until, now + min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS * 2 ** min(10, self.failures - 1))
            )

    def faulty(self, now: float) -> None:
        """Note that the predictor sends what it may not."""
        self.until = max(self.until, now + _LONGEST_PAUSE_SECONDS)

    def without(self, now: float) -> None:
        """Note that the predictor knows no streams."""
        self.until = max(self.until, now + _WITHOUT_SECONDS)


class PredictionStreams:
    """Keeps a few streams open over ``channel``."""

    def __init__(
        self, channel: grpc.aio.Channel, calls: StreamedCalls, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open streams over ``channel`` from the first request on; ``calls`` measures the requests."""
        self._open: Any = channel.stream_stream(
            f"/{METHOD}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=_parse,
        )
        self._calls, self._clock = calls, clock
        self._kept: list[_Kept] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause = Pause()
        self._last: PredictionStream | None = None

    async def ask(self, request: pb.PredictRequest, within: float) -> pb.StreamedAnswer | None:
        """Return the answer; ``None`` where no stream takes the request, or it was lost: it may be asked by a call.

        ``within``: seconds after which the caller cancels this; the server is told.
        """
        stream = self._pick()
        if stream is None or request.ByteSize() > MOST_REQUEST_BYTES:
            return None
        asked = pb.StreamedRequest(request=request, timeout_ms=max(1, int(1000 * within)))
        call, began = self._calls.send(asked.trace_context), self._clock()
        code = grpc.StatusCode.CANCELLED
        try:
            answer = await stream.ask(asked)
            code = _CODES.get(answer.error.code, grpc.StatusCode.UNKNOWN)
            return answer
        except StreamLostError:
            code = grpc.StatusCode.UNAVAILABLE
            return None
        except asyncio.CancelledError:
            if self._clock() - began > within / 2:  # or else the caller has left, which says nothing of the stream
                code = grpc.StatusCode.DEADLINE_EXCEEDED
                stream.timed_out()
            raise
        finally:
            call.finish(code)

    async def aclose(self) -> None:
        """End all streams."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _pick(self) -> PredictionStream | None:
        """The stream for a request: the one whose next message is filling, else the least busy, else the next one."""
        self._keep()
        if self._last is not None and self._last.open and self._last.filling:
            return self._last
        found = [one.stream for one in self._kept if one.stream.open and one.stream is not self._last]
        if self._last is not None and self._last.open:
            found.append(self._last)
        self._last = min(found, key=lambda one: one.waiting, default=None)
        return self._last

    def _keep(self) -> None:
        """Open streams where there are too few; let those end that are old."""
        now = self._clock()
        for one in list(self._kept):
            if one.until <= now:
                one.stream.leave()
            elif one.stream.leaving:
                self._pause.ended(now, answered=one.stream.answered > 0)
            else:
                continue
            self._kept.remove(one)
        while len(self._kept) < _STREAMS and now >= self._pause.until:
            kept = _Kept(PredictionStream(self._open()), now + _MOST_SECONDS)
            self._kept.append(kept)
            # In a context of its own: it outlives the request that opens it, and is no part of its trace.
            task = asyncio.get_running_loop().create_task(self._run(kept), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, kept: _Kept) -> None:
        try:
            await kept.stream.run()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._pause.without(self._clock())
        except FaultyStreamError as error:
            log.warning("a stream of predictions was closed: %s", error)
            self._pause.faulty(self._clock())
        except TimeoutError:  # it did not open
            pass


def _parse(raw: bytes) -> Any:
    """A response; ``None`` for bytes that are none, without the stack trace that gRPC would log."""
    try:
        return pb.PredictStreamResponse.FromString(raw)
    except DecodeError:
        return None
