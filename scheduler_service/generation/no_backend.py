"""No LLM server: the scheduler decides budgets of requests that others run, by ``Grant`` or in a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from scheduler_service.domain import PreconditionError, Sampling
from scheduler_service.generation.backends.base import BackendConfiguration, Capabilities, Ended, Limits, Piece
from scheduler_service.generation.forcing import Call


def make(url: str, configuration: BackendConfiguration) -> NoBackend:
    """The one that refuses to generate; neither argument matters."""
    return NoBackend()


class NoBackend:
    """Is always ready, and generates nothing."""

    name = "none"
    capabilities = Capabilities()

    async def start(self) -> None:
        """Wait for nothing."""

    async def close(self) -> None:
        """Release nothing."""

    async def limits(self) -> Limits:
        """Know of no limits."""
        return Limits(model="")

    async def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        """Raise PreconditionError."""
        raise PreconditionError("backend", "this scheduler has no LLM server; it only decides budgets (Grant)")
        yield
