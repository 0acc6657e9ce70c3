"""Waiting for what nobody announces: as long as a slow machine needs, and no longer."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

PATIENCE = 60.0  # seconds; whoever waits longer waits for something that will not come, on whatever machine


async def eventually(condition: Callable[[], Any | Awaitable[Any]], seconds: float = PATIENCE) -> Any:
    """Wait until ``condition`` returns, or resolves to, something true; returns that. Raises AssertionError."""
    value = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                value = condition()
                if inspect.isawaitable(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"after {seconds:g} s it is still {value!r}") from None
