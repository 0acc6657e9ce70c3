"""Many at once: streams that leave, readers that do not read, a rolling restart; nothing is lost or left behind."""

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack

import grpc
import grpc.aio
import pytest

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling.scheduler.v1 import scheduler_pb2_grpc
from scheduler_service.domain import BackendUnavailableError
from tests.integration.running import DOCUMENTED, balanced, scheduler
from tests.standins.backend import ScriptedBackend
from tests.waiting import PATIENCE, eventually


@pytest.mark.parametrize(("policy", "count"), [("price", 1000), ("envelope", 400)])
async def test_many_streams_with_a_tenth_cancelled_and_a_tenth_failing_leave_nothing_behind(policy, count):
    rng = random.Random(0)
    calls = 0

    def script(prompt):
        nonlocal calls
        calls += 1
        if calls % 10 == 0:
            raise BackendUnavailableError("gone")
        return [" 7", "\n\n"] if prompt.endswith("Final answer:") else ["t"] * rng.randint(1, 60)

    backend = ScriptedBackend(script, slots=64, token_seconds=0.001)
    settings = {"policy": policy, "tokens_per_query": 32, "cap_tokens": 64, "max_in_flight": count // 2}
    async with scheduler(backend, **settings) as server, AsyncSchedulerClient(server) as client:
        before = len(asyncio.all_tasks())

        async def one(at):
            try:
                async for _ in client.generate(f"q{at}", timeout=PATIENCE):
                    if at % 10 == 3:
                        return "left"
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "served"

        ended = Counter(await asyncio.gather(*(one(at) for at in range(count))))
        budget = await balanced(client)
        await eventually(lambda: not backend.open and len(asyncio.all_tasks()) <= before + 5)
    assert set(ended) <= {"served", "left", *(code.name for code in DOCUMENTED)}
    assert ended["served"] > 50
    assert ended["left"] > 10
    assert ended["UNAVAILABLE"] > 5
    assert sum(ended.values()) == count
    assert budget.requests <= count


async def test_readers_that_do_not_read_stop_their_backend_calls_and_nobody_elses():
    """Pieces of 4 KB: neither we nor gRPC may pile up what nobody reads."""
    backend = Counting(lambda prompt: ["x" * 4096] * 4000, slots=100)
    settings = {"policy": "uniform", "cap_tokens": 4000, "tokens_per_query": 4000}
    async with scheduler(backend, **settings) as server, grpc.aio.insecure_channel(server) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        stuck = [stub.Generate(pb.GenerateRequest(job=pb.Job(prompt=f"slow {at}"))) for at in range(5)]
        for call in stuck:
            await call.read()
        before = -1
        async with asyncio.timeout(PATIENCE):
            while backend.pieces != before:  # until the last one stands still
                before = backend.pieces
                await asyncio.sleep(0.3)
        assert backend.pieces < 5 * 2000, "the backend was read to its end though nobody listened"
        async with grpc.aio.insecure_channel(server) as other:
            quick = pb.CompleteRequest(job=pb.Job(prompt="quick", max_reasoning_tokens=16))
            assert (await scheduler_pb2_grpc.SchedulerServiceStub(other).Complete(quick, timeout=PATIENCE)).usage
        for call in stuck:
            call.cancel()
        async with AsyncSchedulerClient(server) as client:
            await balanced(client)
        await eventually(lambda: not backend.open)


class Counting(ScriptedBackend):
    """Counts what was read from it."""

    pieces = 0

    async def stream(self, call, sampling, headers):
        async for piece in super().stream(call, sampling, headers):
            self.pieces += 1
            yield piece


async def test_a_reader_that_stalls_too_long_gives_its_slot_back():
    backend = ScriptedBackend(lambda prompt: ["x" * 4096] * 4000, slots=1)
    settings = {"policy": "uniform", "cap_tokens": 4000, "tokens_per_query": 4000, "slow_reader_seconds": 0.3}
    async with scheduler(backend, **settings) as server, grpc.aio.insecure_channel(server) as channel:
        call = scheduler_pb2_grpc.SchedulerServiceStub(channel).Generate(pb.GenerateRequest(job=pb.Job(prompt="slow")))
        await call.read()
        await eventually(lambda: backend.calls and not backend.open)
        async with AsyncSchedulerClient(server) as client:
            await balanced(client)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_all(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def read_all(call):
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_rolling_restart_under_load_loses_no_request(unused_tcp_port_factory):
    ports = [unused_tcp_port_factory() for _ in range(3)]
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    settings = {"policy": "price", "tokens_per_query": 32, "drain_seconds": PATIENCE, "lame_duck_seconds": 2.0}
    answered, backends = Counter(), {}
    stopping = asyncio.Event()

    def replica(port):
        backends[port] = ScriptedBackend(lambda prompt: ["t"] * 30, token_seconds=0.002)
        return scheduler(backends[port], listen=f"127.0.0.1:{port}", **settings)

    async def load(client, at):
        while not stopping.is_set():
            response = await client.complete(f"question {at}", timeout=PATIENCE)
            answered[at] += 1
            assert response.usage.reasoning_tokens

    async with AsyncExitStack() as closing:
        running = []
        for port in ports:
            stack = await closing.enter_async_context(AsyncExitStack())
            await stack.enter_async_context(replica(port))
            running.append(stack)
        client = await closing.enter_async_context(AsyncSchedulerClient(target))
        async with asyncio.TaskGroup() as group:
            for at in range(24):
                group.create_task(load(client, at))
            await eventually(lambda: all(backend.calls for backend in backends.values()))
            for at, port in enumerate(ports):
                await running[at].aclose()
                await running[at].enter_async_context(replica(port))
                await eventually(lambda port=port: backends[port].calls)  # its clients have found it again
            stopping.set()
    assert len(answered) == 24
    assert sum(answered.values()) > 100


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
async def test_the_wall_clock_may_jump(monkeypatch, jump):
    real = time.time
    backend = ScriptedBackend(lambda prompt: ["t"] * 20, token_seconds=0.002)
    async with scheduler(backend, policy="price") as server, AsyncSchedulerClient(server) as client:
        running = [asyncio.ensure_future(client.complete(f"q{at}")) for at in range(8)]
        await eventually(lambda: backend.calls)
        monkeypatch.setattr(time, "time", lambda: real() + jump)  # gRPC's own deadlines go by it, so none are set
        running += [asyncio.ensure_future(client.complete(f"r{at}")) for at in range(8)]
        for response in await asyncio.gather(*running):
            assert response.usage.reasoning_tokens == 20
            assert 0 <= response.usage.total_seconds < 3600
            assert response.allocation.window_wait_seconds < 3600
        await balanced(client)
