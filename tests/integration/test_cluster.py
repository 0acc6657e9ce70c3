"""Several replicas of everything, as processes on loopback: what holds in a cluster holds here, without one."""

import asyncio
import contextlib
import itertools
import signal
import sys
import time
from collections import Counter

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from predictive_scheduling import AsyncSchedulerClient
from tests.integration.test_shared_budget import Store
from tests.programs import needs
from tests.standins.tgi import TgiStandIn
from tests.waiting import PATIENCE, eventually

pytestmark = needs("redis-server")

RATE = 6000  # reasoning tokens a second, of all schedulers together
CALLERS = 12
_numbers = itertools.count()


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
        async with grpc.aio.insecure_channel(self.address) as channel, asyncio.timeout(PATIENCE):
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
        async with AsyncSchedulerClient(self.address, timeout=PATIENCE) as client:
            return await client.budget()


def question(caller):
    """A question that no other is like, of a kind that the predictor knows."""
    return f"What is {caller} + {next(_numbers) % 9000} - 2?"


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
            "predictor_timeout_ms": 500, "shared_budget_url": store.url, "budget_per": "second", "budget_tokens": RATE,
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
    calls = [client.complete(question(at), timeout=PATIENCE) for at in range(count)]
    return Counter(done.allocation.prediction_outcome for done in await asyncio.gather(*calls))


async def test_a_cluster_survives_what_clusters_go_through(unused_tcp_port_factory):
    async with cluster(unused_tcp_port_factory) as (store, predictors, schedulers):
        target = "ipv4:" + ",".join(one.address for one in schedulers)
        async with AsyncSchedulerClient(target) as client:
            done = await rolling_restart(client, schedulers)
            assert done > 50, "there was no load"
            await partitioned_predictors(client, predictors)
            await partitioned_store(client, store, schedulers)


async def served_by(scheduler):
    return (await scheduler.budget()).requests


async def rolling_restart(client, schedulers):
    """Restart each scheduler in turn under load; a call that fails ends the test. Returns how many were answered."""
    stopping, answered = asyncio.Event(), Counter()

    async def load(caller):
        while not stopping.is_set():
            await client.complete(question(caller), timeout=PATIENCE)
            answered[caller] += 1

    async with asyncio.TaskGroup() as group:
        for caller in range(CALLERS):
            group.create_task(load(caller))
        for one in schedulers:
            await eventually(lambda one=one: served_by(one))
        for one in schedulers:
            await one.stop()
            assert one.process.returncode == 0
            await one.start()
            await eventually(lambda one=one: served_by(one))  # a rollout waits until clients have found it
        stopping.set()
    assert len(answered) == CALLERS
    return sum(answered.values())


async def partitioned_predictors(client, predictors):
    """A predictor that is cut off costs coverage, never an answer; when it is back, so is coverage."""
    fresh = 1

    async def covered():
        return (await outcomes(client, 12))[fresh] >= 10

    await eventually(covered)
    for one in predictors:
        one.send(signal.SIGSTOP)
    cut_off = await outcomes(client, 30)
    assert sum(cut_off.values()) == 30
    assert cut_off[fresh] == 0
    for one in predictors:
        one.send(signal.SIGCONT)
    await eventually(covered)  # once breakers have closed and channels are back


async def partitioned_store(client, store, schedulers):
    """While the store is cut off, schedulers go on with leases and fair shares, and spend no more than that."""
    stopping = asyncio.Event()

    async def load(caller):
        while not stopping.is_set():
            await client.complete(question(caller), timeout=PATIENCE)

    async def spent():
        return sum(budget.granted_tokens for budget in await asyncio.gather(*(one.budget() for one in schedulers)))

    async def more_than(tokens):
        return await spent() > tokens

    async with asyncio.TaskGroup() as group:
        for caller in range(CALLERS):
            group.create_task(load(caller))
        begun = await spent()
        await eventually(lambda: more_than(begun))
        store.process.send_signal(signal.SIGSTOP)
        started, before = time.monotonic(), await spent()
        await asyncio.sleep(4.0)  # enough to spend more than what they hold, if nobody kept them from it
        await eventually(lambda: more_than(before))
        during, took = await spent() - before, time.monotonic() - started
        store.process.send_signal(signal.SIGCONT)
        await eventually(lambda: more_than(before + during))
        stopping.set()
    bank, burst = 128 * 64, 10 * 64  # what a scheduler may hold, and spend ahead
    assert during <= RATE * took + len(schedulers) * (bank + burst)
