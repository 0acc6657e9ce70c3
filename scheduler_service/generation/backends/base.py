"""The edge to an LLM server: continue raw text, token by token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from scheduler_service.domain import BackendUnavailableError, Sampling
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
    ``aborts``: a request tells it that a call is abandoned; other servers see their connection close.
    """

    call_limit: int = 0
    chat: bool = False
    thinking_budget: bool = False
    aborts: bool = False


class EndpointBusyError(BackendUnavailableError):
    """A server has no room now; it has not failed. ``insists``: it said itself to come back after ``retry_seconds``."""

    def __init__(self, description: str, retry_seconds: float = 1.0, *, insists: bool = False) -> None:
        """Say what happened and when to come back."""
        super().__init__(description, retry_seconds)
        self.insists = insists


@dataclass(frozen=True)
class BackendConfiguration:
    """Which LLM server to use, and how: what makes a backend is given no more than this.

    ``kind``: one of ``SERVERS``. ``urls``: of its endpoints. ``token``: bearer token for them. ``model``: to ask for;
    empty takes the first that the server lists. ``chat``: use its chat route. ``thinking_budget``: let it end the
    thinking. ``idle_seconds``: longest wait for a call's next token; ``ready_seconds``: for the server at start.
    ``slots``: calls at once, 0 asks it. ``gguf``, ``gguf_adapter``, ``gguf_adapter_scale``: of an LLM inside
    this process; empty names take the demo's. ``generated_tokens``: the most that a request generates, which such a one
    must have room for.
    """

    kind: str
    urls: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    model: str = ""
    chat: bool = False
    thinking_budget: bool = False
    idle_seconds: float = 60.0
    ready_seconds: float = 120.0
    slots: int = 0
    gguf: str = ""
    gguf_adapter: str = ""
    gguf_adapter_scale: float = 1.0
    generated_tokens: int = 288


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
        """Run one call: pieces as they come, last one ``Ended``. Closing the iterator frees the server's slot.

        Errors say what happened in words for callers: no addresses, nothing of the prompt.
        """
        ...
