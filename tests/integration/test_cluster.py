"""Several replicas of everything, as processes on loopback: what holds in a cluster holds here, without one."""

import asyncio
import contextlib
import shutil
import signal
import sys
import time
from collections import Counter

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from predictive_scheduling import AsyncSchedulerClient
from tests.integration.test_shared_budget import Store
from tests.standins.tgi import TgiStandIn

pytest.importorskip("redis.asyncio")
pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")

RATE = 6000  # reasoning tokens a second, of all schedulers together
CALLERS = 12


class Replica:
    """A service as a process on an address of its own, which is stopped, frozen and started again there."""

    def __init__(self, command, host, port, **flags):
        self.address = f"{host}:{port}"
        options = {"listen": self.address, "log_level": "error", **flags}
        self.arguments = [command, *(f"--{name.replace('_', '-')}={value}" for name, value in options.items())]
        self.process = None

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "predictive_scheduling_cli", *self.arguments
        )
        async with grpc.aio.insecure_channel(self.address) as channel, asyncio.timeout(60):
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)

    def send(self, number):
        self.process.send_signal(number)

    async def stop(self):
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.send(signal.SIGCONT)
                self.send(signal.SIGTERM)
            await self.process.wait()

    async def budget(self):
        async with AsyncSchedulerClient(self.address, timeout=5) as client:
            return await client.budget()


def script(prompt):
    return [" 7", "\n\n"] if prompt.endswith("Final answer:") else ["word "] * 400


@contextlib.asynccontextmanager
async def cluster(ports):
    """Two backends, a store, two predictors, three schedulers; yields the store, predictors and schedulers."""
    store = Store()
    backends = [TgiStandIn(script, token_seconds=0.0005) for _ in range(2)]
    async with backends[0], backends[1]:
        await store.start()
        predictors = [Replica("predictor", f"127.0.0.{2 + at}", ports()) for at in range(2)]
        settings = {
            "backend": "tgi", "backend_url": ",".join(backend.url for backend in backends), "template": "demo",
            "predictor": "ipv4:" + ",".join(one.address for one in predictors), "predictor_cache": 0,
            "predictor_timeout_ms": 100, "shared_budget_url": store.url, "budget_per": "second", "budget_tokens": RATE,
            "tokens_per_query": 64, "drain_seconds": 20,
        }  # fmt: skip
        schedulers = [Replica("scheduler", f"127.0.0.{4 + at}", ports(), **settings) for at in range(3)]
        try:
            await asyncio.gather(*(one.start() for one in predictors))
            await asyncio.gather(*(one.start() for one in schedulers))
            yield store, predictors, schedulers
        finally:
            await asyncio.gather(*(one.stop() for one in (*schedulers, *predictors)))
            with contextlib.suppress(ProcessLookupError):
                store.process.send_signal(signal.SIGCONT)
            await store.kill()


async def outcomes(client, count):
    """Where the curves of the next requests came from."""
    calls = [client.complete(f"question {at} {time.monotonic()}", timeout=20) for at in range(count)]
    return Counter(done.allocation.prediction_outcome for done in await asyncio.gather(*calls))


@pytest.mark.timeout(180)
async def test_a_cluster_survives_what_clusters_go_through(unused_tcp_port_factory):
    async with cluster(unused_tcp_port_factory) as (store, predictors, schedulers):
        target = "ipv4:" + ",".join(one.address for one in schedulers)
        async with AsyncSchedulerClient(target) as client:
            done = await rolling_restart(client, schedulers)
            assert done > 50, "there was no load"
            await partitioned_predictors(client, predictors)
            await partitioned_store(client, store, schedulers)


async def rolling_restart(client, schedulers):
    """Restart each scheduler in turn under load; a call that fails ends the test. Returns how many were answered."""
    stopping, answered = asyncio.Event(), Counter()

    async def load(caller):
        while not stopping.is_set():
            await client.complete(f"question {caller} {time.monotonic()}", timeout=20)
            answered[caller] += 1

    async with asyncio.TaskGroup() as group:
        for caller in range(CALLERS):
            group.create_task(load(caller))
        for one in schedulers:
            await asyncio.sleep(1.0)
            await one.stop()
            assert one.process.returncode == 0
            await one.start()
        await asyncio.sleep(0.5)
        stopping.set()
    assert len(answered) == CALLERS
    return sum(answered.values())


async def partitioned_predictors(client, predictors):
    """A predictor that is cut off costs coverage, never an answer; when it is back, so is coverage."""
    fresh = 1
    assert (await outcomes(client, 30))[fresh] >= 25
    for one in predictors:
        one.send(signal.SIGSTOP)
    cut_off = await outcomes(client, 30)
    assert sum(cut_off.values()) == 30
    assert cut_off[fresh] == 0
    for one in predictors:
        one.send(signal.SIGCONT)
    async with asyncio.timeout(60):
        while (await outcomes(client, 12))[fresh] < 10:  # noqa: ASYNC110  # until breakers close and channels are back
            await asyncio.sleep(0.5)


async def partitioned_store(client, store, schedulers):
    """While the store is cut off, schedulers go on with leases and fair shares, and spend no more than that."""
    stopping = asyncio.Event()

    async def load(caller):
        while not stopping.is_set():
            await client.complete(f"question {caller} {time.monotonic()}", timeout=20)

    async def spent():
        return sum(budget.granted_tokens for budget in await asyncio.gather(*(one.budget() for one in schedulers)))

    async with asyncio.TaskGroup() as group:
        for caller in range(CALLERS):
            group.create_task(load(caller))
        await asyncio.sleep(1.0)
        store.process.send_signal(signal.SIGSTOP)
        started, before = time.monotonic(), await spent()
        await asyncio.sleep(4.0)
        during, took = await spent() - before, time.monotonic() - started
        store.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(1.0)
        after = await spent()
        stopping.set()
    assert during > 0, "nobody went on"
    bank, burst = 128 * 64, 10 * 64  # what a scheduler may hold, and spend ahead
    assert during <= RATE * took + len(schedulers) * (bank + burst)
    assert after > before + during
