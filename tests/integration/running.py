"""Runs the two services inside a test, on free loopback ports, with fakes at their edges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from predictive_scheduling.serving import Serving
from predictive_scheduling.telemetry import Telemetry
from predictor_service import server as predictor_server
from predictor_service.settings import SHIPPED_MODELS, PredictorSettings
from scheduler_service import server as scheduler_server
from scheduler_service.generation.backends.base import Backend
from scheduler_service.settings import SchedulerSettings
from tests.waiting import PATIENCE, eventually

NO_TELEMETRY = Telemetry()


async def refused(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    """Await a call that fails; returns how."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@asynccontextmanager
async def predictor(
    models: Path = SHIPPED_MODELS, reporting: Telemetry = NO_TELEMETRY, **settings: object
) -> AsyncIterator[str]:
    """Run a predictor; yields its address."""
    started: asyncio.Future[Serving] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        loaded = PredictorSettings(models=models, **{"drain_seconds": 1.0, "lame_duck_seconds": 0.0, **settings})
        group.create_task(predictor_server.serve(loaded, reporting=reporting, on_started=started.set_result))
        serving = await started
        try:
            yield f"127.0.0.1:{serving.port}"
        finally:
            serving.draining.set()


@asynccontextmanager
async def scheduler(
    fake: Backend | None = None, reporting: Telemetry = NO_TELEMETRY, **settings: object
) -> AsyncIterator[str]:
    """Run a scheduler, around a ``fake`` backend where one is given; yields its address."""
    started: asyncio.Future[Serving] = asyncio.get_running_loop().create_future()
    defaults = {
        "backend": "embedded" if fake else "tgi",
        "predictor_timeout_ms": 1000 * PATIENCE,
        "window_ms": 5.0,
        "window_adaptive": False,
        "policy": "envelope",
        "tokens_per_query": 64,
        "drain_seconds": 1.0,
        "lame_duck_seconds": 0.0,
    }
    async with asyncio.TaskGroup() as group:
        loaded = SchedulerSettings(**{**defaults, **settings})
        group.create_task(
            scheduler_server.serve(loaded, backend=fake, reporting=reporting, on_started=started.set_result)
        )
        serving = await started
        try:
            yield f"127.0.0.1:{serving.port}"
        finally:
            serving.draining.set()


DOCUMENTED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}


async def settled(client):
    """Whether no request holds tokens."""
    return not (await client.budget()).reserved_tokens


async def balanced(client):
    """The ledger once everything has ended."""
    await eventually(lambda: settled(client))
    budget = await client.budget()
    assert budget.granted_tokens == budget.used_tokens + budget.returned_tokens
    return budget


def bad_fields(error: grpc.aio.AioRpcError) -> list[str]:
    """The fields that an error's BadRequest details name."""
    return [violation.field for violation in detail(error, error_details_pb2.BadRequest).field_violations]


def detail(error: grpc.aio.AioRpcError, kind):
    """The error's google.rpc detail of a kind."""
    status = rpc_status.from_call(_Finished(error))
    found = kind()
    assert status is not None, f"no details: {error}"
    assert any(packed.Unpack(found) for packed in status.details), f"no {kind.__name__} in {status}"
    return found


class _Finished:
    """An AioRpcError in the shape of the synchronous call that grpc_status reads."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def trailing_metadata(self):
        return tuple((key, value) for key, value in self._error.trailing_metadata())

    def code(self):
        return self._error.code()

    def details(self):
        return self._error.details()
