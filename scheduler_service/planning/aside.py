"""Runs work that is too long for the event loop in one thread, so that running streams do not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

MOST_AT_ONCE = 64  # items of a plan that are worked on at once: a few milliseconds


class Aside:
    """One thread that works piece by piece; a piece that has not begun is dropped where its caller leaves."""

    def __init__(self) -> None:
        """Start no thread before it is needed."""
        self._thread = ThreadPoolExecutor(1, "aside")

    async def run(self, size: int, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, done at once for a small ``size``. Raises what it raises."""
        if size <= MOST_AT_ONCE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
