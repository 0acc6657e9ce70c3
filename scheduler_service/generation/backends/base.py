"""The edge to an LLM server: continue raw text, token by token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from scheduler_service.domain import Sampling
from scheduler_service.generation.forcing import Call, CallEnd


@dataclass(frozen=True)
class Piece:
    """Text that arrived, and how many tokens it is."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Ended:
    """The end of a call. ``prompt_tokens``: as the server counted them, 0 where it does not say."""

    end: CallEnd
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Limits:
    """What a backend takes. Tokens; 0 where it does not say."""

    model: str
    max_total_tokens: int = 0
    max_prompt_tokens: int = 0
    max_concurrent_requests: int = 0


@dataclass(frozen=True)
class Capabilities:
    """What a server can do, as its adapter states it.

    ``call_limit``: the most tokens to ask for in one call, 0 for any. ``chat``: it is asked by its chat route, and goes
    on with a partial message of the assistant. ``thinking_budget``: it ends the thinking at a budget by itself.
    ``aborts``: it is told when a call is abandoned; the others see their connection close.
    """

    call_limit: int = 0
    chat: bool = False
    thinking_budget: bool = False
    aborts: bool = False


class Backend(Protocol):
    """An LLM server. Its errors are ``BackendUnavailableError`` (try again) and ``PreconditionError`` (never will)."""

    name: str
    capabilities: Capabilities

    async def start(self) -> None:
        """Connect, and wait until the server answers. Raises BackendUnavailableError if it does not in time."""
        ...

    async def close(self) -> None:
        """Release connections; streams that still run end with an error."""
        ...

    async def limits(self) -> Limits:
        """Ask the server for its limits."""
        ...

    def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        """Run one call: pieces as they come, last one ``Ended``. Closing the iterator frees the server's slot."""
        ...
