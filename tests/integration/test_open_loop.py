"""Questions sent whether or not a scheduler keeps up, and what it says of itself meanwhile."""

import asyncio
import itertools
import math

import grpc
import pytest
from aiohttp import web

from exporters.demo.tasks import fresh_tasks
from predictive_scheduling_cli.demo.engines import EngineFailedError
from predictive_scheduling_cli.demo.open_loop import Fleet, Watch, fleet_of, measure_capacity, offer
from tests.integration.running import scheduler
from tests.standins.crowded import CrowdedBackend
from tests.waiting import eventually

TASKS = fresh_tasks(30)
SETTINGS = {"policy": "price", "template": "demo", "tokens_per_query": 8, "floor_tokens": 0, "answer_tokens": 4}


async def test_questions_come_when_they_are_due_and_those_refused_are_told():
    told = []
    async with scheduler(CrowdedBackend(), max_in_flight=2, **SETTINGS) as address:
        asked = await offer(address, TASKS[:4], [0.0] * 10, told.append)
        later = await offer(address, TASKS, [0.0, 0.4], lambda _: None)
    assert [one.task for one in asked] == [TASKS[at % 4] for at in range(10)]
    assert {id(one) for one in asked} == {id(one) for one in told}
    refused = [one for one in asked if one.result is None]
    assert 1 <= len(refused) <= 8
    assert all(one.seconds == math.inf and not one.right for one in refused)
    assert [one.at for one in later] == [0.0, 0.4]
    assert all(one.result.usage.reasoning_tokens and one.seconds < 60 for one in later)


async def test_a_failure_that_is_no_refusal_ends_the_load():
    async with scheduler(CrowdedBackend(), **SETTINGS) as address:
        with pytest.raises(ExceptionGroup) as caught:
            await offer(address, [TASKS[0], TASKS[1].__class__("sum", "", "", "")], [0.0, 0.0], lambda _: None)
    (error,) = caught.value.exceptions
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_capacity_is_what_is_answered_with_all_slots_taken():
    engine = CrowdedBackend(slots=3)
    async with scheduler(engine, backend_slots=3, **SETTINGS) as address:
        capacity = await measure_capacity(address, TASKS, 3, 0.9)
    assert capacity.rate == pytest.approx(len(capacity.seconds) / 0.6)
    assert capacity.seconds


async def test_an_engine_that_answers_nothing_in_time_has_no_capacity():
    async with scheduler(CrowdedBackend(alone=0.2), **SETTINGS) as address:
        with pytest.raises(EngineFailedError, match=r"within 0\.1 s"):
            await measure_capacity(address, TASKS, 2, 0.1)


async def test_a_watch_looks_again_and_again_and_bears_a_scheduler_that_does_not_answer():
    looks = itertools.count()

    async def page(_):
        if next(looks) == 0:
            raise web.HTTPBadGateway
        return web.Response(text="predictive_scheduling_in_flight 3\n")

    app = web.Application()
    app.router.add_get("/metrics", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    watch, absent = Watch(f"127.0.0.1:{port}"), Watch("127.0.0.1:1")
    running = [asyncio.create_task(one.run()) for one in (watch, absent)]

    async def seen():
        return len(watch.seen) >= 2

    await eventually(seen)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await runner.cleanup()
    assert watch.seen[0].in_flight == 3
    assert watch.seen[0].at < watch.seen[1].at
    assert absent.seen == []


def test_a_page_of_metrics_says_what_is_held_and_at_what_price():
    page = (
        "# TYPE predictive_scheduling_mean_budget gauge\n"
        'predictive_scheduling_mean_budget{scope="x"} 21.5\npredictive_scheduling_load_ratio 1.8\n'
        "predictive_scheduling_price_ratio 0.004\npredictive_scheduling_in_flight 9\n"
        "predictive_scheduling_refused_share_ratio 0.25\nother_mean_budget 3\n"
    )
    assert fleet_of(page, 2.0) == Fleet(2.0, 9, 0.004, 21.5, 1.8, 0.25)
    assert fleet_of("predictive_scheduling_in_flight 1\n", 2.0) == Fleet(2.0, 1, 0.0, None, None, None)
