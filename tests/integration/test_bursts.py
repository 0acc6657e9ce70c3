"""More calls at once than anybody can serve, and calls that a stopping server already has: each ends with a status."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.running_calls import CallsEndedError, RunningCalls
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling.scheduler.v1 import scheduler_pb2_grpc
from tests.integration.running import balanced, detail, scheduler
from tests.standins.backend import ScriptedBackend


def thinker(prompt):
    return [" 7", "\n\n"] if prompt.endswith("Final answer:") else ["t"] * 20


async def ends(channel, count):
    """How ``count`` calls ended that were sent at once; those that may be tried again say when."""
    stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)

    async def one(at):
        job = pb.Job(prompt=f"q{at}")
        try:
            if at % 2:
                await stub.Complete(pb.CompleteRequest(job=job), timeout=120)
            else:
                async for _ in stub.Generate(pb.GenerateRequest(job=job), timeout=120):
                    pass
        except grpc.aio.AioRpcError as failure:
            error = failure
        else:
            return "OK"
        if error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
            assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToSeconds() >= 1
        return error.code().name

    return Counter(await asyncio.gather(*(one(at) for at in range(count))))


async def test_a_burst_on_one_channel_is_served_or_refused_and_never_cancelled():
    """More than gRPC's core keeps by default, which ends the rest with CANCELLED."""
    backend = ScriptedBackend(thinker, token_seconds=0.002)
    async with scheduler(backend, policy="uniform", max_in_flight=64) as server:
        async with grpc.aio.insecure_channel(server) as channel, AsyncSchedulerClient(server) as client:
            seen = await ends(channel, 2500)
            await balanced(client)
    assert set(seen) == {"OK", "RESOURCE_EXHAUSTED"}
    assert seen.total() == 2500


@pytest.mark.parametrize(("count", "drain_seconds"), [(300, 2.0), (2500, 60.0)])
async def test_calls_that_a_stopping_server_has_got_are_served_or_told_to_come_back(count, drain_seconds):
    backend = ScriptedBackend(thinker, slots=2, token_seconds=0.01 if count == 300 else 0.0)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(AsyncExitStack())
        settings = {"policy": "uniform", "drain_seconds": drain_seconds, "lame_duck_seconds": 0.5}
        address = await server.enter_async_context(scheduler(backend, **settings))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        calls = asyncio.ensure_future(ends(channel, count))
        async with asyncio.timeout(60):
            while not backend.open:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0)
        await server.aclose()
        seen = await calls
    assert set(seen) <= {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    assert seen.total() == count
    assert count > 300 or seen["UNAVAILABLE"]
    assert not backend.open


async def test_ended_calls_leave_wherever_they_wait_and_later_ones_at_once():
    calls, never = RunningCalls(), asyncio.Event()

    async def wait():
        async with calls.running():
            await never.wait()

    waiting = [asyncio.ensure_future(wait()) for _ in range(3)]
    await asyncio.sleep(0)
    calls.end()
    for ended in await asyncio.gather(*waiting, wait(), return_exceptions=True):
        assert isinstance(ended, CallsEndedError)


async def test_a_caller_that_is_being_told_already_is_not_told_twice():
    calls, told = RunningCalls(), asyncio.Event()

    async def tell():
        async with calls.running(lambda: True):
            await told.wait()
        return "told"

    telling = asyncio.ensure_future(tell())
    await asyncio.sleep(0)
    calls.end()
    await asyncio.sleep(0.01)
    told.set()
    assert await telling == "told"


async def test_a_timeout_of_a_call_itself_stays_one():
    with pytest.raises(TimeoutError):
        async with RunningCalls().running():
            raise TimeoutError


async def test_quiet_waits_for_calls_that_keep_coming_only_so_long():
    calls = RunningCalls()

    async def come():
        while True:
            calls.came()
            await asyncio.sleep(0)

    coming = asyncio.ensure_future(come())
    async with asyncio.timeout(30):
        await calls.quiet(0.3)
        coming.cancel()
        await calls.quiet(1e9)
