"""Callers that never wait, and what every program does with its figures."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any


async def at_once(count: int, callers: int, call: Callable[[int], Awaitable[None]]) -> None:
    """Make the calls 0 … ``count`` − 1, ``callers`` of them at a time."""

    async def caller(first: int) -> None:
        for at in range(first, count, callers):
            await call(at)

    async with asyncio.TaskGroup() as group:
        for first in range(callers):
            group.create_task(caller(first))


def keep(given: argparse.Namespace, found: Any, draw: Callable[[Path], None]) -> None:
    """Write the figures to ``--json`` and their picture to ``--plot``, where these were given."""
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    if given.plot:
        draw(given.plot)
