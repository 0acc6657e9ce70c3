"""Reads a stream while something about it is still being decided, so that neither waits for the other.

Theory of operation. ``meanwhile`` asks the stream for one item after the other, as long as ``may_read`` allows, until
the decision that it waits for is there. Afterwards ``rest`` reads the stream on from there: first the item that was
asked for and has not come, then the others. An error of the stream is its last item: it is raised by ``rest``, so that
no decision is lost.

Closing this cancels the item that is asked for, and closes the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic, TypeVar, cast

T = TypeVar("T")
D = TypeVar("D")


class ReadAhead(Generic[T]):
    """A stream that can be read ahead. ``first``: is set when its first item has come, or it has ended."""

    def __init__(self, stream: AsyncGenerator[T]) -> None:
        """Nothing is read yet."""
        self.first = asyncio.Event()
        self._stream = stream
        self._asked: asyncio.Task[T] | None = None
        self._ended = False  # or it has failed

    def begin(self) -> None:
        """Ask for the first item now, not when somebody reads."""
        self._ask()

    async def meanwhile(self, deciding: asyncio.Future[D], may_read: Callable[[], bool]) -> AsyncGenerator[T]:
        """Yield what comes until the decision is there, as long as ``may_read``."""
        while not deciding.done():
            if self._asked is None and not self._ended and may_read():
                self._ask()
            waiting: set[asyncio.Future[D] | asyncio.Future[T]] = {deciding}
            if self._asked is not None and not self._ended:
                waiting.add(self._asked)
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            # What comes together with the decision is left to ``rest``, as are an end and an error.
            if deciding.done() or self._asked is None or self._ended or not self._asked.done():
                continue
            self.first.set()
            if self._asked.exception() is not None:
                self._ended = True
                continue
            asked, self._asked = self._asked, None
            yield asked.result()

    def _ask(self) -> None:
        self._asked = asyncio.ensure_future(cast("Awaitable[T]", anext(self._stream)))

    async def rest(self) -> AsyncGenerator[T]:
        """Yield what comes after the decision. Raises what the stream raises."""
        if self._asked is not None:
            try:
                item = await self._asked
            except StopAsyncIteration:
                return
            self._asked = None
            yield item
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
