"""A backend that writes a script, a token a piece: a fake of ``scheduler_service.generation.backends.base.Backend``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from scheduler_service.domain import Sampling
from scheduler_service.generation.backends.base import Capabilities, Ended, Limits, Piece
from scheduler_service.generation.forcing import Call, CallEnd

Script = Callable[[str], Sequence[str]]


@dataclass
class ScriptedBackend:
    """``script`` maps a prompt to the tokens that follow it; ``error`` is raised after ``error_after`` tokens.

    ``gate``: calls whose prompt contains ``gated`` write ``gate_after`` tokens and wait until it is set.
    """

    script: Script
    slots: int = 8
    token_seconds: float = 0.0
    error: Exception | None = None
    error_after: int = 0
    gate: asyncio.Event | None = None
    gate_after: int = 0
    gated: str = ""
    name: str = "scripted"
    capabilities: Capabilities = field(default_factory=Capabilities)
    calls: list[Call] = field(default_factory=list)
    open: int = 0

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def limits(self) -> Limits:
        return Limits("scripted-model", 4096, 4096, self.slots)

    async def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        self.calls.append(call)
        self.open += 1
        try:
            tokens = list(self.script(call.prompt))
            for at, token in enumerate(tokens[: call.max_tokens]):
                if self.error is not None and at >= self.error_after:
                    raise self.error
                if self.gate is not None and at == self.gate_after and self.gated in call.prompt:
                    await self.gate.wait()
                await asyncio.sleep(self.token_seconds)
                yield Piece(token, 1)
            if self.error is not None:
                raise self.error
            yield Ended(CallEnd.LENGTH if len(tokens) >= call.max_tokens else CallEnd.MODEL, len(call.prompt.split()))
        finally:
            self.open -= 1
