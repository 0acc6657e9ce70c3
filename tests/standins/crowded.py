"""A backend whose tokens take longer the more requests run, as those of an LLM do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from scheduler_service.generation.backends.base import Capabilities, Ended, Limits, Piece
from scheduler_service.generation.forcing import CallEnd


@dataclass
class CrowdedBackend:
    """A token takes ``alone`` seconds and ``each`` for every request that runs; ``slots`` at once."""

    alone: float = 0.002
    each: float = 0.001
    slots: int = 64
    running: int = 0
    name: str = "crowded"
    capabilities: Capabilities = field(default_factory=Capabilities)

    async def start(self):
        """Be ready."""

    async def close(self):
        """Release nothing."""

    async def limits(self):
        """Say what it takes."""
        return Limits("crowded", 100_000, 50_000, self.slots)

    async def stream(self, call, sampling, headers):
        """Think as long as it may, and answer in two tokens."""
        self.running += 1
        try:
            tokens = [" 7", "\n\n"] if call.prompt.endswith("Final answer:") else ["t"] * call.max_tokens
            for text in tokens[: call.max_tokens]:
                await asyncio.sleep(self.alone + self.each * self.running)
                yield Piece(text, 1)
            yield Ended(CallEnd.LENGTH if len(tokens) >= call.max_tokens else CallEnd.MODEL, 5)
        finally:
            self.running -= 1
