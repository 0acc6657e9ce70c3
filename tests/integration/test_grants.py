"""Budgets for requests that their callers run: granted, settled by what they used, or by what was expected."""

import asyncio

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as some

from predictive_scheduling import AsyncSchedulerClient, SchedulerClient
from scheduler_service.domain import Allocation, Prediction, PredictionOutcome
from scheduler_service.grants import Told, used_of, within
from scheduler_service.pipeline import Pipeline
from tests.integration.running import predictor, refused, scheduler
from tests.waiting import eventually

UNIFORM = {"policy": "uniform", "tokens_per_query": 64, "backend": "none"}


def allocation(budget=64, expected=40.0):
    return Allocation("1", budget, 64, 32, 0, 256, "price", Prediction(PredictionOutcome.FRESH), 0.5, 0.4, expected, 1)


async def test_a_granted_request_is_reserved_until_it_is_settled_by_what_it_used():
    async with scheduler(**UNIFORM) as address, AsyncSchedulerClient(address) as client:
        granted = await client.grant("How many?", request_id="mine", tenant="gold")
        held = await client.budget()
        settled = await client.settle(
            "mine", tenant="gold", completion_tokens=50, reasoning_tokens=44, prompt_tokens=9, seconds_per_token=0.01
        )
        again = await client.settle("mine", tenant="gold", completion_tokens=50)
        budget, known = await client.budget(), await client.find("mine")
    assert (granted.reasoning_budget_tokens, granted.policy, granted.request_id) == (64, "uniform", "mine")
    assert held.reserved_tokens == 64
    assert settled.settled
    assert settled.returned_tokens == 20
    assert not again.settled
    assert again.returned_tokens == 0
    assert (budget.reserved_tokens, budget.used_tokens, budget.returned_tokens) == (0, 44, 20)
    assert (known.usage.reasoning_tokens, known.usage.answer_tokens, known.usage.prompt_tokens) == (44, 6, 9)


async def test_nothing_takes_longer_than_the_request_was_open():
    """Others' budgets are made of what one caller tells of its engine's times."""
    async with scheduler(**UNIFORM) as address, AsyncSchedulerClient(address) as client:
        granted = await client.grant("one")
        await client.settle(granted.request_id, completion_tokens=11, first_token_seconds=3e38, seconds_per_token=3e38)
        usage = (await client.find(granted.request_id)).usage
    assert 0 < usage.time_to_first_token_seconds <= usage.total_seconds
    assert 0 < usage.seconds_per_token * 10 <= 1.001 * usage.total_seconds  # of floats of 32 bits


@given(
    tokens=some.none() | some.integers(0, 2**32), seconds=some.floats(0, 1e6), traces=some.integers(1, 8),
    first=some.floats(0, 1e6), pace=some.floats(0, 1e6),
)  # fmt: skip
def test_times_that_are_possible_are_believed(tokens, seconds, traces, first, pace):
    told = Told(tokens, first_token_seconds=first, seconds_per_token=pace)
    believed = within(told, seconds, traces)
    assert believed.first_token_seconds == min(first, seconds)
    if pace * max(1, (tokens or 0) - 1) < 0.999 * seconds:
        assert believed.seconds_per_token == pace * traces  # of one, which are side by side
    assert believed.seconds_per_token * ((tokens or 0) - 1) <= 1.001 * seconds * traces


async def test_grants_are_priced_by_their_predictions():
    async with predictor() as predictions:
        settings = {**UNIFORM, "policy": "price", "tokens_per_query": 48, "cap_tokens": 128, "predictor": predictions}
        async with scheduler(**settings) as address, AsyncSchedulerClient(address) as client:
            found = [await client.grant(f"How many ones are in {'1 0 ' * at}1?") for at in range(1, 17)]
            for one in found:
                await client.settle(one.request_id, completion_tokens=one.reasoning_budget_tokens + 2)
            budget = await client.budget()
    assert {one.policy for one in found} == {"price"}
    assert len({one.reasoning_budget_tokens for one in found}) > 1
    assert budget.covered_requests == 16
    assert budget.used_tokens == sum(one.reasoning_budget_tokens for one in found)


async def test_what_nobody_settles_counts_as_expected_and_leaves():
    async with (
        scheduler(**UNIFORM, grant_seconds=0.05, max_in_flight=1) as address,
        AsyncSchedulerClient(address) as client,
    ):
        await client.grant("one")

        async def left():
            return (await client.budget()).used_tokens == 64

        await eventually(left)
        await client.grant("two")  # so the first is in flight no more
        status = await client.status(recent=2)
    assert "Untold" in [one.error for one in status.recent]


async def test_one_that_failed_returns_its_tokens():
    async with scheduler(**UNIFORM) as address, AsyncSchedulerClient(address) as client:
        granted = await client.grant("one")
        settled = await client.settle(granted.request_id, completion_tokens=0, failure="refused")
        known = await client.find(granted.request_id)
    assert settled.returned_tokens == 64
    assert known.error == "refused"


async def test_reasons_without_end_are_counted_as_one():
    async with scheduler(**UNIFORM) as address, AsyncSchedulerClient(address) as client:
        for at in range(70):
            granted = await client.grant("one")
            await client.settle(granted.request_id, completion_tokens=0, failure=f"reason {at}")
        for reason in ("late", "cancelled", "Untold"):  # what has a meaning of its own
            granted = await client.grant("one")
            await client.settle(granted.request_id, completion_tokens=0, failure=reason)
        status = await client.status()
    assert len(status.failed_requests) == 51 + 3
    assert status.failed_requests["other"] == 20
    assert status.failed_requests["Untold"] == 1


async def test_limits_hold_for_grants_as_for_other_requests():
    async with scheduler(**UNIFORM, max_in_flight=1) as address, AsyncSchedulerClient(address) as client:
        first = await client.grant("one")
        full = await refused(client.grant("two"))
        await client.settle(first.request_id, completion_tokens=1)
        await client.grant("two", request_id="same")
        wrong = await refused(client.settle(""))
    assert full.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert wrong.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_of_the_most_completion_tokens_the_answer_keeps_its_part():
    async with scheduler(**UNIFORM, answer_tokens=32) as address, AsyncSchedulerClient(address) as client:
        granted = await client.grant("one", max_completion_tokens=40)
        wrong = await refused(client.grant("two", max_completion_tokens=0))
    assert (granted.reasoning_budget_tokens, granted.answer_tokens) == (8, 32)
    assert wrong.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_tenants_settle_their_own(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token a\nb-token b\n")
    async with scheduler(**UNIFORM, auth_tokens=str(tokens)) as address:
        async with (
            AsyncSchedulerClient(address, token="a-token") as a,
            AsyncSchedulerClient(address, token="b-token") as b,
        ):
            granted = await a.grant("one")
            others = await b.settle(granted.request_id, completion_tokens=1)
            named = await refused(b.settle(granted.request_id, tenant="a", completion_tokens=1))
            own = await a.settle(granted.request_id, completion_tokens=1)
    assert not others.settled
    assert named.code() is grpc.StatusCode.PERMISSION_DENIED
    assert own.settled


async def test_a_scheduler_without_an_llm_server_generates_nothing():
    async with scheduler(**UNIFORM) as address, AsyncSchedulerClient(address) as client:
        error = await refused(client.complete("one"))
        budget = await client.budget()
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "only decides budgets" in error.details()
    assert (budget.reserved_tokens, budget.used_tokens) == (0, 0)


async def test_the_blocking_client_grants_and_settles():
    async with scheduler(**UNIFORM) as address:

        def work():
            with SchedulerClient(address) as client:
                return client.settle(client.grant("one").request_id, completion_tokens=4).returned_tokens

        assert await asyncio.to_thread(work) == 60


@given(completion=some.none() | some.integers(0, 1000), reasoning=some.none() | some.integers(0, 1000))
def test_what_was_used_is_what_was_told_or_else_expected(completion, reasoning):
    used, answer = used_of(allocation(), Told(completion, reasoning))
    assert used >= 0
    assert answer >= 0
    if reasoning is not None:
        assert used == reasoning
    elif completion is None:
        assert (used, answer) == (40.0, 0)
    else:
        assert used + answer == completion
        assert used <= 64


@pytest.mark.parametrize("failing", ["allocator", "observer"])
async def test_a_grant_that_fails_leaves_nothing_open(failing, monkeypatch):
    async def fail(self, job):
        raise RuntimeError("no")

    async with scheduler(**UNIFORM, max_in_flight=1) as address, AsyncSchedulerClient(address) as client:
        with monkeypatch.context() as patched:
            if failing == "allocator":
                patched.setattr(Pipeline, "allocate", fail)
            else:
                patched.setattr("scheduler_service.telemetry.observers.Observers.allocated", lambda *_: 1 / 0)
            error = await refused(client.grant("one"))
        granted = await client.grant("two")
        budget = await client.budget()
    assert error.code() is grpc.StatusCode.INTERNAL
    assert budget.reserved_tokens == granted.reasoning_budget_tokens
