"""The calls of a server that are under way, so that a drain can wait for them, and end those that take too long.

grpc.aio ends what still runs when its grace is over without a status of ours, and core ends what it has accepted but
not yet handed over with CANCELLED, which nobody may retry. So a drain first waits until nothing is handed over any
more, and ends what still runs at its deadline itself: UNAVAILABLE with RetryInfo.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from predictive_scheduling.rpc_errors import abort_retry
from predictive_scheduling.wrapping import Handler, WrappingInterceptor

RETRY_SECONDS = 1.0
_QUIET_ROUNDS, _ROUND_SECONDS = 10, 0.01
_Context = grpc.aio.ServicerContext[Any, Any]


class CallsEndedError(Exception):
    """The call was ended because its server shuts down."""


class RunningCalls:
    """The calls of a server, each ``async with running():``."""

    def __init__(self) -> None:
        """Nothing runs."""
        self._limits: set[asyncio.Timeout] = set()
        self._ended = False
        self._came = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Count the body as a call. Raises CallsEndedError in it, wherever it waits, once ``end`` was called."""
        self._came += 1
        limit = asyncio.timeout(0 if self._ended else None)
        try:
            async with limit:
                self._limits.add(limit)
                yield
        except TimeoutError:
            if limit.expired():
                raise CallsEndedError("the server is shutting down") from None
            raise
        finally:
            self._limits.discard(limit)

    async def quiet(self, at_most_seconds: float) -> None:
        """Wait until no call has come for ten rounds of the loop, a hundredth of a second each.

        Rounds, not only seconds: on a busy machine a call that was accepted needs several until it is seen here.
        """
        end = asyncio.get_running_loop().time() + at_most_seconds
        came, still = -1, 0
        while still < _QUIET_ROUNDS and asyncio.get_running_loop().time() < end:
            still = still + 1 if came == self._came else 0
            came = self._came
            await asyncio.sleep(_ROUND_SECONDS)

    def end(self) -> None:
        """End what runs, and what comes, too."""
        self._ended = True
        for limit in self._limits:
            limit.reschedule(0)


class CountCalls(WrappingInterceptor):
    """A server interceptor that counts our methods' calls; ended ones get UNAVAILABLE with RetryInfo."""

    def __init__(self, calls: RunningCalls) -> None:
        """Count in ``calls``."""
        super().__init__()
        self._calls = calls

    def wrap(self, handler: Handler, method: str) -> Handler:
        """Return the handler as one that is counted; health and reflection, which never end, as they are."""
        if method.startswith("/grpc.") or handler.request_streaming:
            return handler
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream), handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _unary(self, behavior: Any) -> Any:
        async def counted(request: Any, context: _Context) -> Any:
            try:
                async with self._calls.running():
                    return await behavior(request, context)
            except CallsEndedError as error:
                await abort_retry(context, grpc.StatusCode.UNAVAILABLE, str(error), RETRY_SECONDS)

        return counted

    def _stream(self, behavior: Any) -> Any:
        async def counted(request: Any, context: _Context) -> AsyncIterator[Any]:
            try:
                async with self._calls.running(), aclosing(behavior(request, context)) as responses:
                    async for response in responses:
                        yield response
            except CallsEndedError as error:
                await abort_retry(context, grpc.StatusCode.UNAVAILABLE, str(error), RETRY_SECONDS)

        return counted
