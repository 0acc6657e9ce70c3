"""Runs a generation on a backend: makes the calls that budget forcing asks for, one after another.

The only place where a backend meets the forcing machine; the scheduler and the collection of curves both use it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Protocol, cast

from scheduler_service.domain import BackendUnavailableError, Sampling, Text
from scheduler_service.generation.backends.base import Backend, Ended, Piece
from scheduler_service.generation.forcing import BudgetForcing, Call


class CallWatcher(Protocol):
    """Accompanies one call: ``headers`` go with it, and it is told the end."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the request."""
        ...

    def ended(self, ended: Ended) -> None:
        """The server said how it ended."""
        ...


class _Nobody:
    headers: Mapping[str, str] = {}

    def ended(self, ended: Ended) -> None:
        pass


def _unwatched(call: Call) -> AbstractContextManager[CallWatcher]:
    return nullcontext(_Nobody())


async def drive(
    backend: Backend,
    forcing: BudgetForcing,
    sampling: Sampling,
    *,
    watch: Callable[[Call], AbstractContextManager[CallWatcher]] = _unwatched,
    on_piece: Callable[[Piece], None] | None = None,
) -> AsyncGenerator[Text]:
    """Yield the generation's text as it comes; ``forcing`` then holds its counts.

    ``watch``: what accompanies each call. ``on_piece``: is given what the backend says before it is taken. Closing the
    iterator frees the backend's slot. Raises what the backend raises, and BackendUnavailableError for a call that ends
    nothing and brings nothing.
    """
    while (call := forcing.next_call()) is not None:
        for text in forcing.take():
            yield text
        with watch(call) as watcher:
            # Every backend streams from an async generator; closing it is what frees the slot.
            stream = cast("AsyncGenerator[Piece | Ended]", backend.stream(call, sampling, watcher.headers))
            async with aclosing(stream):
                async for piece in stream:
                    if isinstance(piece, Ended):
                        watcher.ended(piece)
                        if not forcing.end_call(piece.end):
                            raise BackendUnavailableError("the LLM server ended a call without a token")
                        break
                    if on_piece is not None:
                        on_piece(piece)
                    if not forcing.feed(piece.text, piece.tokens):
                        break
                    for text in forcing.take():
                        yield text
                else:
                    raise BackendUnavailableError("the LLM server's stream ended before its last event")
    for text in forcing.take():
        yield text
