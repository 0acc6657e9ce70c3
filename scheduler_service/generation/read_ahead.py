"""Reads a stream while something about it is still being decided, so that neither waits for the other.

Theory of operation. ``meanwhile`` asks the stream for one item after the other, as long as ``may_read`` allows, and
waits for the decision beside it. ``until`` does the same and keeps what came. Afterwards ``rest`` reads the stream on
from there: first what was kept, then the item that was asked for and has not come, then the rest.

On cancellation the item that is asked for is cancelled, by ``until`` with the decision; the stream itself belongs to
who opened it, who closes it once this is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Generic, TypeVar, cast

T = TypeVar("T")
D = TypeVar("D")


class ReadAhead(Generic[T]):
    """A stream that can be read ahead. ``first``: is set when its first item has come, or it has ended."""

    def __init__(self, stream: AsyncGenerator[T]) -> None:
        """Nothing is read yet."""
        self.first = asyncio.Event()
        self._stream = stream
        self._kept: deque[T] = deque()
        self._asked: asyncio.Task[T] | None = None
        self._ended = False

    async def until(self, decision: Coroutine[None, None, D], may_read: Callable[[], bool]) -> D:
        """Return the decision; read as long as ``may_read`` until it is there. Raises what the stream raises first."""
        deciding = asyncio.ensure_future(decision)
        try:
            async for item in self.meanwhile(deciding, may_read):
                self._kept.append(item)
            return deciding.result()
        finally:
            await cancelled(deciding)

    async def meanwhile(self, deciding: asyncio.Future[D], may_read: Callable[[], bool]) -> AsyncGenerator[T]:
        """Yield what comes until the decision is there, as long as ``may_read``. Raises what the stream raises."""
        while not deciding.done():
            if self._asked is None and not self._ended and may_read():
                self._asked = asyncio.ensure_future(cast("Awaitable[T]", anext(self._stream)))
            waiting: set[asyncio.Future[D] | asyncio.Future[T]] = {deciding}
            if self._asked is not None:
                waiting.add(self._asked)
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            # What comes together with the decision, an error too, is left to ``rest``: the decision is not lost.
            if self._asked is not None and self._asked.done() and not deciding.done():
                asked, self._asked = self._asked, None
                self.first.set()
                try:
                    item = asked.result()
                except StopAsyncIteration:
                    self._ended = True
                else:
                    yield item

    async def rest(self) -> AsyncGenerator[T]:
        """Yield what was kept, and then what comes."""
        while self._kept:
            yield self._kept.popleft()
        if self._asked is not None:
            asked = self._asked
            try:
                item = await asked
            except StopAsyncIteration:
                self._ended = True
            else:
                self._asked = None
                yield item
        if not self._ended:
            async for item in self._stream:
                yield item

    async def aclose(self) -> None:
        """Stop to read, and close the stream."""
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.wait([self._asked])
            if not self._asked.cancelled():
                self._asked.exception()  # which nobody reads any more
        await self._stream.aclose()


async def cancelled(task: asyncio.Future[D]) -> None:
    """Cancel a task that has not ended, and wait until it has."""
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # which may be nobody's any more
