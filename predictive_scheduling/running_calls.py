"""The calls of a server that are under way, so that a drain can wait for them, and end those that take too long.

grpc.aio ends what still runs when its grace is over without a status of ours, and core ends what it has accepted but
not yet handed over with CANCELLED, which clients do not retry. So a drain first waits until nothing is handed over any
more, and ends what still runs at its deadline itself: UNAVAILABLE with RetryInfo.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn

import grpc
import grpc.aio

from predictive_scheduling.rpc_errors import abort_retry
from predictive_scheduling.wrapping import Handler, WrappingInterceptor, answering

RETRY_SECONDS = 1.0
_SHUTTING_DOWN = "the server is shutting down"
_QUIET_ROUNDS, _ROUND_SECONDS = 10, 0.01
_Context = grpc.aio.ServicerContext[Any, Any]


class CallsEndedError(Exception):
    """The call was ended because its server shuts down."""


class RunningCalls:
    """The calls of a server: each ``came``, and waits ``async with running():``."""

    def __init__(self) -> None:
        """Start without calls."""
        self._limits: dict[asyncio.Timeout, Callable[[], bool]] = {}
        self._ended = False
        self._came = 0

    def came(self) -> None:
        """Count a call that has just come; ``quiet`` waits until there are no more."""
        self._came += 1

    @asynccontextmanager
    async def running(self, told: Callable[[], bool] = lambda: False) -> AsyncIterator[None]:
        """Raise CallsEndedError in the body, wherever it waits, once ``end`` was called.

        ``told``: whether the caller is getting another status already, which then is not disturbed.
        """
        if self._ended:
            raise CallsEndedError(_SHUTTING_DOWN)
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limits[limit] = told
                yield
        except TimeoutError:
            if limit.expired():
                raise CallsEndedError(_SHUTTING_DOWN) from None
            raise
        finally:
            self._limits.pop(limit, None)

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
        """End the calls that run; calls that come later end at once."""
        self._ended = True
        for limit, told in self._limits.items():
            if not told():
                limit.reschedule(0)


class CountCalls(WrappingInterceptor):
    """A server interceptor that counts our methods' calls; ended ones get UNAVAILABLE with RetryInfo."""

    def __init__(self, calls: RunningCalls) -> None:
        """Count the server's calls in ``calls``."""
        super().__init__()
        self._calls = calls

    def wrap(self, handler: Handler, method: str) -> Handler:
        """Return the handler as one that is counted; health and reflection, which never end, as they are."""
        if method.startswith("/grpc.") or handler.request_streaming:
            return handler
        return answering(handler, unary=self._unary, stream=self._stream)

    def _unary(self, behavior: Any) -> Any:
        async def counted(request: Any, context: _Context) -> Any:
            self._calls.came()
            try:
                async with self._calls.running(lambda: bool(context.code())):
                    return await behavior(request, context)
            except CallsEndedError as error:
                await _tell(context, error)

        return counted

    def _stream(self, behavior: Any) -> Any:
        async def counted(request: Any, context: _Context) -> AsyncIterator[Any]:
            self._calls.came()
            try:
                async with aclosing(behavior(request, context)) as responses:
                    while True:
                        # Not while a response is sent, which gRPC does in this task: it would tell the caller nothing.
                        async with self._calls.running(lambda: bool(context.code())):
                            response = await anext(responses, None)
                        if response is None:
                            return
                        yield response
            except CallsEndedError as error:
                await _tell(context, error)

        return counted


async def _tell(context: _Context, error: CallsEndedError) -> NoReturn:
    """End a call that was ended here; one whose own status was just being sent keeps that one."""
    if context.code():
        raise asyncio.CancelledError  # which gRPC takes without a word
    await abort_retry(context, grpc.StatusCode.UNAVAILABLE, str(error), RETRY_SECONDS)
