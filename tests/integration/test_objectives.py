"""Latency objectives in the running service: budgets follow the load, down and up again, and least values go first."""

import asyncio
import itertools
from contextlib import asynccontextmanager

import grpc
import pytest
from pydantic import ValidationError

from predictive_scheduling import AsyncSchedulerClient
from scheduler_service.settings import SchedulerSettings
from tests.integration.running import predictor, scheduler
from tests.standins.crowded import CrowdedBackend
from tests.waiting import eventually

HELD = {
    "objective": "total p90 800ms", "policy": "price", "tokens_per_query": 96, "cap_tokens": 128, "floor_tokens": 0,
    "least_tokens_per_query": 4, "answer_tokens": 4, "window_ms": 5,
}  # fmt: skip


@asynccontextmanager
async def load(client, callers, **fields):
    """Callers that ask again and again while the block runs; yields the errors."""
    errors, numbers = [], iter(range(1_000_000))

    async def ask():
        while True:
            try:
                await client.complete(f"How many ones are in {'1 0 ' * (next(numbers) % 12)}1?", **fields)
            except grpc.aio.AioRpcError as error:
                errors.append(error)
                await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(ask()) for _ in range(callers)]
    try:
        yield errors
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def newest(client):
    """The last request's record."""
    status = await client.status(recent=1)
    return status.recent[0] if status.recent else None


@pytest.mark.parametrize("policy", ["price", "envelope"])
async def test_budgets_fall_under_load_and_come_back_after_it(policy):
    async with predictor() as predictions:
        settings = {**HELD, "predictor": predictions, "policy": policy}
        async with scheduler(CrowdedBackend(), **settings) as address, AsyncSchedulerClient(address) as client:

            async def said(words):
                record = await newest(client)
                return record and (words in record.allocation.explanation) and record

            async def mean_budget(least, most):
                status = await client.status(recent=20)
                budgets = [one.allocation.reasoning_budget_tokens for one in status.recent]
                return len(budgets) == 20 and least <= sum(budgets) / 20 <= most

            async with load(client, 40):
                await eventually(lambda: mean_budget(0, 32))
                if policy == "price":
                    await eventually(lambda: said("the fleet is at"))
            async with load(client, 1):
                await eventually(lambda: mean_budget(48, 128))
            budget = await client.budget()
    assert budget.granted_tokens == pytest.approx(budget.reserved_tokens + budget.used_tokens + budget.returned_tokens)


async def test_requests_that_run_elsewhere_are_a_load_as_well():
    """A gateway's requests hold no slot here: their grants, and what is told of them, say how full it is."""
    running = 0

    async def elsewhere(client, number):
        nonlocal running
        granted = await client.grant(f"How many ones are in {'1 0 ' * (number % 12)}1?", request_id=f"{number}")
        running += 1
        tokens, pace = granted.reasoning_budget_tokens + 4, 0.002 + 0.001 * running
        try:
            await asyncio.sleep(tokens * pace)
        finally:
            running -= 1
        await client.settle(f"{number}", completion_tokens=tokens, first_token_seconds=pace, seconds_per_token=pace)

    async def mean_budget(client, least, most):
        budgets = [one.allocation.reasoning_budget_tokens for one in (await client.status(recent=20)).recent]
        return len(budgets) == 20 and least <= sum(budgets) / 20 <= most

    async def ask(client, numbers):
        while True:
            try:
                await elsewhere(client, next(numbers))
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)

    async with predictor() as predictions:
        settings = {**HELD, "predictor": predictions, "backend": "none", "grant_seconds": 5.0}
        async with scheduler(**settings) as address, AsyncSchedulerClient(address) as client:
            numbers = itertools.count()
            for callers, least, most in ((40, 0, 32), (1, 48, 128)):
                asking = [asyncio.create_task(ask(client, numbers)) for _ in range(callers)]
                try:
                    await eventually(lambda low=least, high=most: mean_budget(client, low, high))
                finally:
                    for task in asking:
                        task.cancel()
                    await asyncio.gather(*asking, return_exceptions=True)


async def test_where_not_even_the_least_budgets_fit_the_least_valuable_are_refused():
    engine = CrowdedBackend(alone=0.02, each=0.01, slots=8)
    async with predictor() as predictions:
        settings = {**HELD, "predictor": predictions, "max_in_flight": 4096, "least_tokens_per_query": 64}
        async with scheduler(engine, **settings) as address, AsyncSchedulerClient(address) as client:
            async with load(client, 60) as errors:
                await eventually(lambda: len(errors) > 10)
            status = await client.status()
    assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all("objectives" in error.details() for error in errors)
    assert status.rejected_requests["OverloadedError"] >= 10


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"objective": "fast"}, "objective"),
        ({"least_tokens_per_query": 8}, "least_tokens_per_query"),
        ({"objective": "total p99 1s", "least_tokens_per_query": 999}, "least_tokens_per_query"),
        ({"objective": "total p99 1s", "budget_per": "second", "budget_tokens": 10}, "objective"),
    ],
)
def test_objectives_that_cannot_be_held_are_named(wrong, named):
    with pytest.raises(ValidationError, match=named):
        SchedulerSettings(backend="none", **wrong)
