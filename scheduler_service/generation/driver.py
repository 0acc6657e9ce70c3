"""Runs a generation on a backend: makes the calls that budget forcing asks for, one after another.

The only place where a backend meets the forcing machine; the scheduler and the collection of curves both use it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

from scheduler_service.domain import BackendUnavailableError, Sampling, Text
from scheduler_service.generation.backends.base import Backend, Ended, Piece
from scheduler_service.generation.forcing import BudgetForcing, Call, ReportRequest


class CallWatcher(Protocol):
    """Accompanies one call, as a span does: adds to what is sent, and is told how it ended.

    ``call``: the call to make, with what its server is to report. ``headers``: HTTP headers to send with it, such as
    the trace context.
    """

    @property
    def call(self) -> Call:
        """Return the call to make."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers."""
        ...

    def ended(self, ended: Ended) -> None:
        """Take note of how the server says that the call ended; not called where it says nothing."""
        ...


@dataclass(frozen=True)
class _NoWatcher:
    call: Call
    headers: Mapping[str, str] = field(default_factory=dict)

    def ended(self, ended: Ended) -> None:
        pass


def _unwatched(call: Call) -> AbstractContextManager[CallWatcher]:
    return nullcontext(_NoWatcher(call))


async def drive(
    backend: Backend,
    forcing: BudgetForcing,
    sampling: Sampling,
    *,
    watch: Callable[[Call], AbstractContextManager[CallWatcher]] = _unwatched,
    on_piece: Callable[[Piece], None] | None = None,
    report: ReportRequest | None = None,
) -> AsyncGenerator[Text]:
    """Yield the generation's text as it comes; ``forcing`` then holds its counts.

    ``watch``: what accompanies each call. ``on_piece``: is given each piece before the forcing machine is. ``report``:
    what the first call asks for beside its text. Closing the iterator closes the backend's stream. A call that breaks
    off is gone on with from what it has brought, a few times: where there are several servers, by another. Raises what
    the backend raises, and BackendUnavailableError for a call that ends without a token, or breaks off without one.
    """
    while (call := forcing.next_call()) is not None:
        for text in forcing.take():
            yield text
        if report is not None:
            call, report = replace(call, report=report), None
        try:
            with watch(call) as watcher:
                # Every backend streams from an async generator; closing it is what frees the slot.
                stream = cast("AsyncGenerator[Piece | Ended]", backend.stream(watcher.call, sampling, watcher.headers))
                async with aclosing(stream):
                    async for piece in stream:
                        if isinstance(piece, Ended):
                            watcher.ended(piece)
                            if not forcing.end_call(piece.end):
                                raise BackendUnavailableError("the LLM server ended a call without a token")
                            break
                        if on_piece is not None:
                            on_piece(piece)
                        if not (forcing.feed(piece.text, piece.tokens) and forcing.goes_on()):
                            break
                        for text in forcing.take():
                            yield text
                        if not forcing.goes_on():  # the budget fell while the reader had the text
                            break
                    else:
                        raise BackendUnavailableError("the LLM server's stream ended before its last event")
        except BackendUnavailableError:
            if not forcing.broke_off():
                raise
    for text in forcing.take():
        yield text
