"""A backend that writes as fast as it is read: what is measured on it is the scheduler's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from scheduler_service.domain import Sampling
from scheduler_service.generation.backends.base import Capabilities, Ended, Limits, Piece
from scheduler_service.generation.forcing import Call, CallEnd


class FastBackend:
    """Writes as many tokens as it is asked for; ``tokens_per_read``: so many come at once, as from a socket."""

    name = "fast"
    capabilities = Capabilities()

    def __init__(self, tokens_per_read: int = 8) -> None:
        """Start without a connection."""
        self._tokens_per_read = tokens_per_read

    async def start(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to close."""

    async def limits(self) -> Limits:
        """Return limits that refuse nothing."""
        return Limits("fast")

    async def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        """Yield the tokens without waiting."""
        for at in range(call.max_tokens):
            if at % self._tokens_per_read == 0:
                await asyncio.sleep(0)
            yield Piece("word ", 1)
        yield Ended(CallEnd.LENGTH, 1)
