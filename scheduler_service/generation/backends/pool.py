"""Several endpoints of one model as one backend: the least busy healthy one is asked, another where it fails.

Theory of operation. The pool implements ``Backend``, so that the driver knows of one server only; it calls ``stream``
once for each call of a generation, which may thus run on different endpoints. ``stream`` tries the endpoints in order
of their rank: healthy before busy before ejected, then the one with the fewest running calls, then the one that was
asked longest ago. Until a call's first piece has come, nothing is lost by asking another endpoint: a refusal, a full
queue or a broken connection sends the call on to the next endpoint, and, when all have failed, once more after a
pause. After the first piece an error goes to the caller, since another endpoint could generate another text.

What always holds: an endpoint's ``outstanding`` is the number of its streams that are open; no piece of two endpoints
is mixed in one call; at least one endpoint is never ejected. An endpoint without room is asked after the others for a
moment; one that says for how long (``Retry-After``) is not asked until then; one that keeps failing is ejected
(``ejection``) and asked only where all others have failed.

On cancellation the endpoint's stream is closed before ``outstanding`` falls. A call that its reader closes after the
first piece counts as a success of the endpoint; one that is closed before says nothing about it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from scheduler_service.domain import BackendUnavailableError, Sampling
from scheduler_service.generation.backends.base import Backend, Ended, EndpointBusyError, Limits, Piece
from scheduler_service.generation.backends.ejection import Ejection
from scheduler_service.generation.engine_signals import Signals, together
from scheduler_service.generation.forcing import Call

log = logging.getLogger(__name__)

_LONGEST_PAUSE_SECONDS = 2.0


@dataclass(eq=False)
class Endpoint:
    """A backend of the pool: calls that it runs now, and the last that it got.

    ``full_until``: it had no room. ``closed_until``: it asked to be left alone.
    """

    at: int
    backend: Backend
    ejection: Ejection
    outstanding: int = 0
    last_call: int = 0
    full_until: float = 0.0
    closed_until: float = 0.0

    @property
    def failures(self) -> int:
        """How many calls failed since the last one that succeeded."""
        return self.ejection.in_a_row(self.at)

    def failed(self, error: BackendUnavailableError, now: float) -> None:
        """Note that a call failed or was refused at ``now``, in seconds of the pool's clock."""
        if isinstance(error, EndpointBusyError):
            self.full_until = now + error.retry_seconds
            if error.insists:
                self.closed_until = self.full_until
        elif self.ejection.failed(self.at, now):
            log.warning("endpoint %d keeps failing, and is left out for a while", self.at)

    def rank(self, now: float) -> tuple[int, int, int]:
        """Return the sort key for who is asked first: the lowest is."""
        if self.ejection.ejected(self.at, now):
            trust = 2
        else:
            on_trial = self.ejection.on_trial(self.at, now) and self.outstanding > 0
            trust = int(on_trial or self.full_until > now)
        return trust, self.outstanding, self.last_call


class BackendPool:
    """Implements ``Backend`` over several. ``rounds``: how often all endpoints are tried before a call fails."""

    def __init__(
        self, backends: Sequence[Backend], *, rounds: int = 2, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Serve from ``backends``, at least one."""
        ejection = Ejection(len(backends))
        self.endpoints = [Endpoint(at, backend, ejection) for at, backend in enumerate(backends)]
        self.name = backends[0].name
        self.capabilities = backends[0].capabilities
        self._ejection = ejection
        self._rounds = rounds
        self._clock = clock
        self._calls = 0

    async def start(self) -> None:
        """Start all; those that cannot be reached are ejected. Raises BackendUnavailableError where none can."""
        results = await asyncio.gather(*(one.backend.start() for one in self.endpoints), return_exceptions=True)
        errors = [error for error in results if isinstance(error, BaseException)]
        for error in errors:
            if not isinstance(error, BackendUnavailableError):
                raise error
        for endpoint, result in zip(self.endpoints, results, strict=True):
            if result is not None:
                log.warning("an endpoint is left out for now: %s", result)
                self._ejection.eject(endpoint.at, self._clock())
        if len(errors) == len(self.endpoints):
            raise errors[0]

    async def close(self) -> None:
        """Close every endpoint's connections."""
        await asyncio.gather(*(one.backend.close() for one in self.endpoints))

    async def limits(self) -> Limits:
        """Return lengths that every endpoint takes, and the number of requests that all take together.

        Raises what the first says, where none can.
        """
        found, errors = [], []
        for endpoint in self.endpoints:
            try:
                found.append(await endpoint.backend.limits())
            except BackendUnavailableError as error:
                self._ejection.eject(endpoint.at, self._clock())
                log.warning("an endpoint does not say what it takes: %s", error)
                errors.append(error)
        if not found:
            raise errors[0]

        def least(values: list[int]) -> int:
            return min((value for value in values if value), default=0)

        return Limits(
            model=found[0].model,
            max_total_tokens=least([one.max_total_tokens for one in found]),
            max_prompt_tokens=least([one.max_prompt_tokens for one in found]),
            max_concurrent_requests=sum(one.max_concurrent_requests for one in found),
        )

    async def signals(self) -> Signals | None:
        """The load of all endpoints together; ``None`` where one does not say."""
        asked = (_signals(one.backend) for one in self.endpoints)
        return together(await asyncio.gather(*asked))

    async def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        """Run one call on an endpoint that answers."""
        error = BackendUnavailableError("the LLM server is busy")
        for attempt in range(self._rounds):
            if attempt:
                await self._pause(error)
            for endpoint in self._in_order():
                endpoint.outstanding += 1
                self._calls += 1
                endpoint.last_call = self._calls
                begun = False
                try:
                    # Every backend streams from an async generator; closing it is what frees the slot.
                    stream = cast("AsyncGenerator[Piece | Ended]", endpoint.backend.stream(call, sampling, headers))
                    async with aclosing(stream):
                        async for piece in stream:
                            begun = True
                            yield piece
                    self._ejection.succeeded(endpoint.at, self._clock())
                    return
                except GeneratorExit:  # who reads us has enough: it went well as far as it went
                    if begun:
                        self._ejection.succeeded(endpoint.at, self._clock())
                    raise
                except BackendUnavailableError as failure:
                    endpoint.failed(failure, self._clock())
                    if begun:
                        raise
                    error = failure
                finally:
                    endpoint.outstanding -= 1
        raise BackendUnavailableError(str(error), max(error.retry_seconds, self._free_in()))

    def _in_order(self) -> list[Endpoint]:
        """The endpoints that may be asked, as they are to be tried: the healthy before the ejected, the least busy."""
        now = self._clock()
        return sorted((one for one in self.endpoints if one.closed_until <= now), key=lambda one: one.rank(now))

    async def _pause(self, error: BackendUnavailableError) -> None:
        """Wait before all are tried again. Raises BackendUnavailableError where none may be asked soon."""
        wait = self._free_in()
        if wait > _LONGEST_PAUSE_SECONDS:
            raise BackendUnavailableError(str(error), wait)
        jitter = random.uniform(0.5, 1.0)  # noqa: S311  # jitter
        await asyncio.sleep(wait + min(_LONGEST_PAUSE_SECONDS, error.retry_seconds) * jitter)

    def _free_in(self) -> float:
        """Seconds until the first endpoint may be asked again; 0 where one may be asked now."""
        return max(0.0, min(one.closed_until for one in self.endpoints) - self._clock())


async def _signals(backend: Backend) -> Signals | None:
    tells: Callable[[], Awaitable[Signals | None]] | None = getattr(backend, "signals", None)
    return None if tells is None else await tells()
