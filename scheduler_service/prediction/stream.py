"""One open PredictStream: requests out, answers in, each under an id that is used once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from predictive_scheduling.predictor.v1 import predictor_pb2 as pb

MOST_REQUEST_BYTES = 1 << 17  # larger ones have a call of their own: they would hold up what is behind them
_MOST_A_MESSAGE = 64
_MOST_WAITING = 1024
_MOST_TIMEOUTS = 3  # in a row, without any answer between them
_OPEN_SECONDS, _END_SECONDS = 5.0, 5.0


class StreamLostError(Exception):
    """The stream ended before the answer came."""


class FaultyStreamError(Exception):
    """The server sends what no server may send on a stream."""


class PredictionStream:
    """A stream over ``call``, as long as ``run`` runs. What it holds is bounded whatever the server does."""

    def __init__(self, call: Any) -> None:
        """Use a call of PredictStream that has just been made; responses that are no messages come as ``None``."""
        self._call = call
        self._connected = self._leaving = False
        self._waiting: dict[int, asyncio.Future[pb.StreamedAnswer]] = {}
        self._outbox: list[pb.StreamedRequest] = []
        self._wake = asyncio.Event()
        self._next_id = self._sent = self._timeouts = 0
        self.answered = 0

    @property
    def leaving(self) -> bool:
        """Whether it takes no further requests."""
        return self._leaving

    @property
    def open(self) -> bool:
        """Whether it takes a request now."""
        return self._connected and not self._leaving and len(self._waiting) < _MOST_WAITING > len(self._outbox)

    @property
    def waiting(self) -> int:
        """Requests that wait for their answers."""
        return len(self._waiting)

    @property
    def filling(self) -> bool:
        """Whether its next message has requests already, and room for more."""
        return 0 < len(self._outbox) < _MOST_A_MESSAGE

    def leave(self) -> None:
        """Take no further requests; the stream ends when those that wait are answered."""
        self._leaving = True
        self._wake.set()

    async def ask(self, request: pb.StreamedRequest) -> pb.StreamedAnswer:
        """Send a request under an id of ours and return its answer. Raises StreamLostError.

        A request that is cancelled is forgotten, and its answer dropped when it comes.
        """
        request.id = self._next_id
        self._next_id += 1
        answer: asyncio.Future[pb.StreamedAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = answer
        self._outbox.append(request)
        self._wake.set()
        try:
            return await answer
        finally:
            self._waiting.pop(request.id, None)

    def timed_out(self) -> None:
        """Note that a request got no answer in time; after three in a row the stream is given up: it may be cut off."""
        self._timeouts += 1
        if self._timeouts >= _MOST_TIMEOUTS:
            self._leaving = True
            self._call.cancel()

    async def run(self) -> None:
        """Serve until the stream ends. Raises AioRpcError, TimeoutError where it does not open, FaultyStreamError."""
        writing: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                await self._call.initial_metadata()
            if not self._call.done():
                self._connected = True
                writing = asyncio.create_task(self._write())
            await self._read()
        finally:
            self._leaving = True
            if writing is not None:
                writing.cancel()
            self._call.cancel()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(StreamLostError)

    async def _read(self) -> None:
        draining = False
        while (message := await self._call.read()) is not grpc.aio.EOF:
            if message is None:
                raise FaultyStreamError("the bytes of a response are no message")
            self._take(message)
            if message.draining and draining:
                raise FaultyStreamError("the predictor says twice that it drains")
            if message.draining:
                draining = True
                self.leave()

    def _take(self, message: pb.PredictStreamResponse) -> None:
        count = len(message.answers)
        self.answered += count
        if self.answered > self._sent:
            raise FaultyStreamError("the predictor sends more answers than it got requests")
        if not count and not message.draining:
            raise FaultyStreamError("the predictor sends messages without answers")
        self._timeouts = 0
        for one in message.answers:
            if one.id >= self._next_id:
                raise FaultyStreamError("the predictor answers what was not asked")
            answer = self._waiting.get(one.id)  # none: it came too late
            if answer is not None and not answer.done():
                answer.set_result(one)

    async def _write(self) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the reader hears of the end, too
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._outbox:
                    some, self._outbox = self._outbox[:_MOST_A_MESSAGE], self._outbox[_MOST_A_MESSAGE:]
                    asked = [one for one in some if one.id in self._waiting]
                    if asked:
                        self._sent += len(asked)
                        await self._call.write(pb.PredictStreamRequest(requests=asked))
                if self._leaving:
                    await self._call.done_writing()
                    await asyncio.sleep(_END_SECONDS)
                    self._call.cancel()
