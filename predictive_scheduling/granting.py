"""Asking a scheduler for budgets on the way of a request that runs elsewhere, and must not wait or fail for it.

Theory of operation. ``grant`` waits for its timeout at the most, and returns nothing where there is no answer. What was
asked for too late may have been granted all the same, so it is settled as unused; the name of a grant is made here, so
that it can be. After some failures in a row a circuit breaker leaves the scheduler alone: one call a second tries, and
the other requests do not wait. Only what the scheduler itself refuses for being too much is raised.

A channel belongs to its event loop: each loop that asks has a client of its own, made when it first asks, and given up
when another loop asks after the first one was closed.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from predictive_scheduling.chat_budgets import Asked
from predictive_scheduling.circuit_breaker import CircuitBreaker
from predictive_scheduling.client import AsyncSchedulerClient

log = logging.getLogger(__name__)

_SETTLE_SECONDS = 5.0  # nobody waits for it
_SAY_SECONDS = 10.0
_ABSENT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class TooMuchError(Exception):
    """The scheduler refuses a request: a quota is used up, or too many are in flight.

    ``retry_seconds``: when it may come again.
    """

    def __init__(self, message: str, retry_seconds: float) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


@dataclass(frozen=True)
class Granted:
    """A request's budget, in tokens of each of its answers. ``at``: when it was granted, in seconds since 1970."""

    request_id: str
    tenant: str
    budget_tokens: int
    answer_tokens: int
    at: float


@dataclass
class _Link:
    """What an event loop holds: its client, and what it still has to settle."""

    client: AsyncSchedulerClient
    settling: set[asyncio.Task[None]]


class Granting:
    """Grants for callers that cannot wait."""

    def __init__(self, connect: Callable[[], AsyncSchedulerClient], timeout_seconds: float) -> None:
        """Ask by clients that ``connect`` makes; a request waits ``timeout_seconds`` for its budget at the most."""
        self._connect, self._timeout_seconds = connect, timeout_seconds
        self._breaker = CircuitBreaker(failures=3, longest_rest_seconds=1.0)
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}
        self._said = -_SAY_SECONDS
        self._unsaid = 0

    async def grant(self, asked: Asked, tenant: str = "") -> Granted | None:
        """Return the budget of a request, ``None`` where there is none in time. Raises TooMuchError."""
        if not self._breaker.allows(time.monotonic()):
            return None
        name = uuid.uuid4().hex
        try:
            async with asyncio.timeout(self._timeout_seconds):
                given = await self._link().client.grant(
                    request_id=name, tenant=tenant, max_completion_tokens=asked.all_tokens, **asked.job_fields()
                )
        except TimeoutError:
            self._breaker.failed(time.monotonic())
            self._unused(name, tenant)
            self._say(f"no budget within {self._timeout_seconds:g} s")
            return None
        except asyncio.CancelledError:
            self._unused(name, tenant)
            raise
        except grpc.aio.AioRpcError as error:
            self._failed(error)
            return None
        self._breaker.answered()
        each = given.reasoning_budget_tokens // asked.choices
        return Granted(name, tenant, each, given.answer_tokens, time.time())

    def settle(self, granted: Granted, **told: Any) -> None:
        """Tell what a request used, without a wait; ``told`` are fields of ``SettleRequest``. Needs a running loop."""
        link = self._link()
        task = asyncio.create_task(self._settle(link.client, granted, told))
        link.settling.add(task)
        task.add_done_callback(link.settling.discard)

    async def _settle(self, client: AsyncSchedulerClient, granted: Granted, told: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                await client.settle(granted.request_id, tenant=granted.tenant, **told)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            self._say(f"a request is not settled, and will count as expected: {_reason(error)}")

    def _unused(self, name: str, tenant: str) -> None:
        self.settle(Granted(name, tenant, 0, 0, time.time()), completion_tokens=0, failure="late")

    def _failed(self, error: grpc.aio.AioRpcError) -> None:
        """Note how a call failed. Raises TooMuchError where the scheduler says when the request may come again."""
        if error.code() in _ABSENT:
            self._breaker.failed(time.monotonic())
        else:
            self._breaker.answered()
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and (seconds := _retry_seconds(error)) is not None:
            raise TooMuchError(error.details() or "too many requests", seconds) from None
        self._say(f"no budget: {_reason(error)}")

    def _link(self) -> _Link:
        loop = asyncio.get_running_loop()
        if (link := self._links.get(loop)) is None:
            for over in [known for known in self._links if known.is_closed()]:
                self._links.pop(over, None)
            link = self._links[loop] = _Link(self._connect(), set())
        return link

    def _say(self, message: str) -> None:
        """Log what went wrong, now and then."""
        now = time.monotonic()
        if now < self._said + _SAY_SECONDS:
            self._unsaid += 1
            return
        log.warning("%s; requests go on (%d more of such since the last line)", message, self._unsaid)
        self._said, self._unsaid = now, 0


def _reason(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"no answer within {_SETTLE_SECONDS:g} s"


def _retry_seconds(error: grpc.aio.AioRpcError) -> float | None:
    """When a call may be tried again, by its RetryInfo; gRPC's own errors have none."""
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    found = error_details_pb2.RetryInfo()
    try:
        for detail in status_pb2.Status.FromString(packed).details:
            if detail.Unpack(found):
                return float(found.retry_delay.ToTimedelta().total_seconds())
    except DecodeError:
        pass
    return None
