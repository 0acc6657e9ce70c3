"""Schedulers before the same engine hold an objective together, by a real redis-server and without it."""

import asyncio
from contextlib import AsyncExitStack

import grpc.aio
import redis.asyncio as aioredis

from predictive_scheduling import AsyncSchedulerClient
from scheduler_service.shared_load import Load, SharedLoad
from tests.integration.running import predictor, scheduler
from tests.integration.test_objectives import HELD, load
from tests.integration.test_shared_budget import Store, store  # noqa: F401
from tests.programs import needs
from tests.standins.crowded import CrowdedBackend
from tests.waiting import eventually

pytestmark = needs("redis-server")


async def test_each_hears_the_sum_of_the_others_and_who_is_gone_is_forgotten(store):  # noqa: F811
    async with aioredis.Redis.from_url(store.url) as client:
        replicas = [SharedLoad(client, name) for name in "abc"]
        for at, replica in enumerate(replicas, start=1):
            await replica.exchange(Load(arrivals=at))
        assert (await replicas[0].exchange(Load(arrivals=1))).arrivals == 5
        assert replicas[0].others == 2
        other = SharedLoad(client, "a", "another fleet")
        assert await other.exchange(Load(arrivals=9)) == Load()

        async def alone():
            return await replicas[0].exchange(Load(arrivals=1)) == Load()

        await eventually(alone)  # the others do not renew theirs


async def test_a_scheduler_without_traffic_knows_how_full_the_engine_is(store):  # noqa: F811
    """One scheduler has all the load; the other one's mean budget falls as well, also while the store is away."""
    engine = CrowdedBackend()
    async with AsyncExitStack() as stack:
        predictions = await stack.enter_async_context(predictor())
        settings = {**HELD, "predictor": predictions, "shared_budget_url": store.url}
        busy, idle = [
            await stack.enter_async_context(
                AsyncSchedulerClient(await stack.enter_async_context(scheduler(engine, **settings)))
            )
            for _ in range(2)
        ]

        async def next_budget(least, most):
            try:
                done = await idle.complete("How many ones are in 1 0 1 0 1 0 1?")
            except grpc.aio.AioRpcError as error:  # one that knows nothing of the crowd sees answers that are late
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                return least == 0
            return least <= done.allocation.baseline_tokens <= most

        await eventually(lambda: next_budget(64, 96))
        async with load(busy, 40):
            await eventually(lambda: next_budget(0, 32))
            await store.kill()
            for _ in range(5):
                await asyncio.sleep(1.0)
                assert await next_budget(0, 64)
        await store.start()
        await eventually(lambda: next_budget(64, 96))
