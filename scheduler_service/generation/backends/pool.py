"""Several endpoints of one model as one backend: the least busy healthy one is asked, another where it fails.

Until a call's first piece has come nothing is lost by asking somebody else, so a refusal, a full queue or a broken
connection sends it on to the next endpoint, and, when all have failed, once more after a pause. After the first piece
an error is the caller's: generating it again could say something else.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

from scheduler_service.domain import BackendUnavailableError, Sampling
from scheduler_service.generation.backends.base import Backend, Ended, Limits, Piece
from scheduler_service.generation.forcing import Call
from scheduler_service.prediction.circuit_breaker import CircuitBreaker

log = logging.getLogger(__name__)

_FIRST_REST_SECONDS = 0.5


@dataclass(eq=False)
class Endpoint:
    """A backend of the pool: calls that it runs now, the last that it got, and how long it is left alone."""

    backend: Backend
    outstanding: int = 0
    last_call: int = 0
    breaker: CircuitBreaker = field(
        default_factory=lambda: CircuitBreaker(failures=1, rest_seconds=_FIRST_REST_SECONDS)
    )

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self.breaker.in_a_row


class BackendPool:
    """Implements ``Backend`` over several. ``rounds``: how often all endpoints are tried before a call fails."""

    def __init__(
        self, backends: Sequence[Backend], *, rounds: int = 2, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Serve from ``backends``, one at least."""
        self.endpoints = [Endpoint(backend) for backend in backends]
        self.name = backends[0].name
        self.capabilities = backends[0].capabilities
        self._rounds = rounds
        self._clock = clock
        self._calls = 0

    async def start(self) -> None:
        """Start all; those that cannot be reached rest. Raises BackendUnavailableError where none can."""
        results = await asyncio.gather(*(one.backend.start() for one in self.endpoints), return_exceptions=True)
        errors = [error for error in results if isinstance(error, BaseException)]
        for error in errors:
            if not isinstance(error, BackendUnavailableError):
                raise error
        for endpoint, result in zip(self.endpoints, results, strict=True):
            if result is not None:
                log.warning("an endpoint is left out for now: %s", result)
                endpoint.breaker.failed(self._clock())
        if len(errors) == len(self.endpoints):
            raise errors[0]

    async def close(self) -> None:
        """Close all."""
        await asyncio.gather(*(one.backend.close() for one in self.endpoints))

    async def limits(self) -> Limits:
        """What every endpoint takes, and how much all take together."""
        found = []
        for endpoint in self.endpoints:
            try:
                found.append(await endpoint.backend.limits())
            except BackendUnavailableError as error:
                endpoint.breaker.failed(self._clock())
                log.warning("an endpoint does not say what it takes: %s", error)
        if not found:
            raise BackendUnavailableError("no endpoint says what it takes")

        def least(values: list[int]) -> int:
            return min((value for value in values if value), default=0)

        return Limits(
            model=found[0].model,
            max_total_tokens=least([one.max_total_tokens for one in found]),
            max_prompt_tokens=least([one.max_prompt_tokens for one in found]),
            max_concurrent_requests=sum(one.max_concurrent_requests for one in found),
        )

    async def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        """Run one call on an endpoint that answers."""
        error = BackendUnavailableError("no endpoint")
        for attempt in range(self._rounds):
            if attempt:
                await asyncio.sleep(min(2.0, error.retry_seconds) * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
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
                            if not begun:
                                begun = True
                                endpoint.breaker.answered()
                            yield piece
                    return
                except BackendUnavailableError as failure:
                    endpoint.breaker.failed(self._clock())
                    if begun:
                        raise
                    error = failure
                finally:
                    endpoint.outstanding -= 1
        raise error

    def _in_order(self) -> list[Endpoint]:
        """The endpoints as they are to be tried: those that do not rest first, the least busy of them first."""
        now = self._clock()
        return sorted(self.endpoints, key=lambda one: (one.breaker.resting(now), one.outstanding, one.last_call))
