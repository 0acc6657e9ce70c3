"""The backend's slots: so many generations at once; who waits gets the next free slot by priority."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count


class Slots:
    """At most ``most`` holders at once. Of those that wait, a higher priority goes first, then who came earlier.

    Theory of operation. A freed slot is handed to the first waiter that still waits, so that a later one cannot
    take it in between. A waiter that is cancelled after a slot was handed to it passes the slot on.
    """

    def __init__(self, most: int) -> None:
        """All slots are free."""
        self.most = most
        self._free = most
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()
        self._left = 0  # of those in the heap, how many wait no more

    @property
    def held(self) -> int:
        """How many are held."""
        return self.most - self._free

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return sum(not turn.done() for *_, turn in self._waiting)

    @asynccontextmanager
    async def slot(self, priority: int = 0) -> AsyncIterator[None]:
        """Hold a slot, from when there is one."""
        await self._acquire(priority)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, priority: int) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (-priority, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()
            else:
                self._forget()
            raise

    def _release(self) -> None:
        while self._waiting:
            *_, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
            self._left -= 1
        self._free += 1

    def _forget(self) -> None:
        """Note that one waits no more, and drop those from the heap once they are more than half of it.

        While others of a higher priority keep coming, nobody else would.
        """
        self._left += 1
        if 2 * self._left > len(self._waiting):
            self._waiting = [entry for entry in self._waiting if not entry[-1].done()]
            heapq.heapify(self._waiting)
            self._left = 0
