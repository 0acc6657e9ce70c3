"""Budgets asked for on the way of requests that run elsewhere: nothing of a scheduler's makes them wait or fail."""

import asyncio
import socket
from contextlib import asynccontextmanager

import grpc
import pytest

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.chat_budgets import Asked
from predictive_scheduling.granting import Granting, TooMuchError
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling.scheduler.v1 import scheduler_pb2_grpc
from tests.integration.running import balanced, scheduler
from tests.waiting import PATIENCE, eventually

UNIFORM = {"policy": "uniform", "tokens_per_query": 64, "backend": "none"}


def granting(address, seconds=PATIENCE):
    return Granting(lambda: AsyncSchedulerClient(address), seconds)


class Script(scheduler_pb2_grpc.SchedulerServiceServicer):
    """A scheduler that fails by ``code``, or answers when ``answer`` is set; it remembers what it was asked."""

    def __init__(self, code=None):
        self.code, self.answer = code, asyncio.Event()
        self.granted, self.settled = [], []

    async def Grant(self, request, context):
        self.granted.append(request)
        if self.code is not None:
            await context.abort(self.code, "by the script")
        await asyncio.shield(self.answer.wait())
        return pb.GrantResponse(allocation=pb.Allocation(request_id=request.job.request_id))

    async def Settle(self, request, context):
        self.settled.append(request)
        if self.code is not None:
            await context.abort(self.code, "by the script")
        return pb.SettleResponse()


@asynccontextmanager
async def scripted(code=None):
    script, server = Script(code), grpc.aio.server()
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(script, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield script, f"127.0.0.1:{port}"
    finally:
        script.answer.set()
        await server.stop(None)


async def test_a_request_has_its_budget_until_it_is_settled():
    async with scheduler(**UNIFORM) as address, AsyncSchedulerClient(address) as client:
        asking = granting(address)
        granted = await asking.grant(Asked("How many?", choices=2, completion_tokens=40), "gold")
        held = (await client.budget()).reserved_tokens
        asking.settle(granted, completion_tokens=10, reasoning_tokens=6)
        budget = await balanced(client)
        known = await client.find(granted.request_id)
    assert (granted.budget_tokens, granted.answer_tokens, granted.tenant) == (8, 32, "gold")  # of 80, 64 for answers
    assert held == 16
    assert budget.used_tokens == 6
    assert known.tenant == "gold"


async def test_what_is_refused_for_its_load_says_when_to_come_back():
    async with scheduler(**UNIFORM, max_in_flight=1) as address:
        asking = granting(address)
        await asking.grant(Asked("one"))
        with pytest.raises(TooMuchError, match="in flight") as refused:
            await asking.grant(Asked("two"))
    assert refused.value.retry_seconds > 0


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # without RetryInfo, it is gRPC's own
    ],
)
async def test_a_refused_request_goes_on_without_a_budget_and_others_ask(code, caplog):
    async with scripted(code) as (script, address):
        asking = granting(address)
        assert [await asking.grant(Asked("q")) for _ in range(5)] == [None] * 5
    assert len(script.granted) == 5
    assert len(caplog.records) == 1
    assert code.name in caplog.text


async def test_what_comes_too_late_is_settled_as_unused():
    async with scripted() as (script, address):
        asking = granting(address, 0.05)
        assert await asking.grant(Asked("q")) is None
        await eventually(lambda: script.settled)
    late = script.settled[0]
    assert late.request_id
    assert (late.completion_tokens, late.failure) == (0, "late")
    if script.granted:  # not where the connection took as long
        assert script.granted[0].job.request_id == late.request_id


async def test_a_caller_that_leaves_meanwhile_returns_its_budget():
    async with scripted() as (script, address):
        asking = granting(address)
        leaving = asyncio.ensure_future(asking.grant(Asked("q")))
        await eventually(lambda: script.granted)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await eventually(lambda: script.settled)
    assert script.settled[0].request_id == script.granted[0].job.request_id


async def test_a_scheduler_that_keeps_silent_is_left_alone():
    async with scripted() as (script, address):
        asking = granting(address)
        script.answer.set()
        assert await asking.grant(Asked("q")) is not None
        script.answer.clear()
        asking._timeout_seconds = 0.05
        asking._breaker.rest_seconds = asking._breaker.longest_rest_seconds = 10 * PATIENCE
        assert [await asking.grant(Asked("q")) for _ in range(20)] == [None] * 20
        assert len(script.granted) <= 1 + 3  # one that is given up at once may never have been sent


async def test_a_scheduler_that_comes_back_is_asked_again():
    async with scripted(grpc.StatusCode.UNAVAILABLE) as (script, address):
        asking = granting(address)
        assert [await asking.grant(Asked("q")) for _ in range(4)] == [None] * 4
        script.code = None
        script.answer.set()

        async def granted():
            return await asking.grant(Asked("q"))

        assert await eventually(granted)


async def test_what_cannot_be_settled_is_logged_now_and_then(caplog):
    async with scripted() as (script, address):
        script.answer.set()
        asking = granting(address)
        granted = await asking.grant(Asked("q"))
        script.code = grpc.StatusCode.INTERNAL
        for _ in range(3):
            asking.settle(granted, completion_tokens=1)
        await eventually(lambda: not asking._link().settling)
        assert len(caplog.records) == 1
        assert "INTERNAL" in caplog.text
        asking._said -= 20.0
        asking.settle(granted, completion_tokens=1)
        await eventually(lambda: not asking._link().settling)
    assert "2 more" in caplog.text


async def test_settling_ends_where_the_scheduler_keeps_silent(caplog, monkeypatch):
    monkeypatch.setattr("predictive_scheduling.granting._SETTLE_SECONDS", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel takes connections, nobody answers
        asking = granting(f"127.0.0.1:{silent.getsockname()[1]}", 0.01)
        assert await asking.grant(Asked("q")) is None
        asking._said -= 20.0
        await eventually(lambda: not asking._link().settling)
    assert "not settled" in caplog.text


async def test_every_event_loop_has_a_channel_of_its_own():
    async with scheduler(**UNIFORM) as address:
        asking = granting(address)

        async def once():
            granted = await asking.grant(Asked("q"))
            asking.settle(granted, completion_tokens=1)
            await eventually(lambda: not asking._link().settling)
            return granted.budget_tokens

        for _ in range(3):
            assert await asyncio.to_thread(lambda: asyncio.run(once())) > 0
        assert await once() > 0
        assert len(asking._links) == 1
