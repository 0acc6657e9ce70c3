"""Budgets in the running service: by the price, within deadlines, reclaimed in flight, distrusted after outcomes."""

import asyncio

import grpc
import grpc.aio
import pytest

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from scheduler_service.domain import BackendUnavailableError
from scheduler_service.generation.backends.base import Capabilities
from scheduler_service.generation.pace import answer_seconds
from tests.integration.running import predictor, scheduler
from tests.standins.backend import ScriptedBackend

EASY, HARD = "How many ones are in 1 0 1?", "How many ones are in 1 0 1 1 0 1 1 0 1 1 0 1 0 1 1 1 0 1?"
PRICED = {"policy": "price", "tokens_per_query": 48, "cap_tokens": 128}


# Time is kept for an answer of 1,024 tokens, which has two: however slow the machine, it comes before the deadline.
LONG_ANSWER = {"answer_tokens": 1024}
LONG_ANSWER_SECONDS = answer_seconds(1024, 0.03)


def endless(prompt):
    """A model that thinks as long as it may, and answers at once when cut."""
    return [" 7", "\n\n"] if prompt.endswith("Final answer:") else ["t"] * 4000


async def ask(client, prompt, **options):
    events = [event async for event in client.generate(prompt, **options)]
    (allocation,) = [event.allocation for event in events if event.WhichOneof("event") == "allocation"]
    return allocation, events[-1].usage


async def test_priced_requests_wait_for_nobody_and_stay_within_budget_and_burst():
    async with predictor() as predictions:
        settings = {**PRICED, "predictor": predictions, "window_ms": 60000.0, "reclaim": False}
        async with scheduler(ScriptedBackend(endless), **settings) as address, AsyncSchedulerClient(address) as client:
            found = [await ask(client, (EASY, HARD)[at % 2]) for at in range(40)]
            budget = await client.budget()
    allocations = [allocation for allocation, _ in found]
    assert {allocation.policy for allocation in allocations} == {"price"}
    assert all(allocation.window_wait_seconds == 0 and allocation.window_size == 1 for allocation in allocations)
    assert all(usage.reasoning_tokens == allocation.reasoning_budget_tokens for allocation, usage in found)
    assert sum(allocation.reasoning_budget_tokens for allocation in allocations) <= 48 * 40 + 10 * 48
    assert len({allocation.reasoning_budget_tokens for allocation in allocations}) > 1
    assert any(allocation.price > 0 for allocation in allocations)
    assert budget.granted_tokens == budget.used_tokens + budget.returned_tokens
    assert budget.covered_requests == 40
    assert dict(budget.prediction_outcomes) == {"fresh": 40}


async def test_a_priced_request_without_a_prediction_gets_the_uniform_budget():
    settings = {**PRICED, "predictor": "127.0.0.1:1", "predictor_timeout_ms": 200}
    async with scheduler(ScriptedBackend(endless), **settings) as address, AsyncSchedulerClient(address) as client:
        allocation, usage = await ask(client, HARD)
        budget = await client.budget()
    assert (allocation.policy, allocation.reasoning_budget_tokens, usage.reasoning_tokens) == ("uniform", 48, 48)
    assert budget.covered_requests == 0
    assert sum(budget.prediction_outcomes.values()) == 1
    assert "fresh" not in budget.prediction_outcomes


@pytest.mark.parametrize("policy", ["uniform", "price"])
async def test_a_deadline_shortens_the_budget_and_leaves_time_for_the_answer(policy):
    backend = ScriptedBackend(endless, token_seconds=0.03)
    settings = {"policy": policy, "tokens_per_query": 128, "cap_tokens": 256, **LONG_ANSWER}
    async with scheduler(backend, **settings) as address, AsyncSchedulerClient(address) as client:
        measured, _ = await ask(client, HARD, max_reasoning_tokens=16)  # the pace is learned from this one
        allocation, usage = await ask(client, HARD, timeout=LONG_ANSWER_SECONDS + 0.8)
    assert measured.reasoning_budget_tokens == 16
    assert allocation.reasoning_budget_tokens < 50
    assert usage.answer_tokens > 0


async def test_a_backend_that_slows_down_is_cut_before_the_deadline():
    backend = ScriptedBackend(endless)
    settings = {"policy": "uniform", "tokens_per_query": 128, "cap_tokens": 128, **LONG_ANSWER}
    async with scheduler(backend, **settings) as address, AsyncSchedulerClient(address) as client:
        await ask(client, HARD)
        backend.token_seconds = 0.03
        allocation, usage = await ask(client, HARD, timeout=LONG_ANSWER_SECONDS + 0.8)
    assert allocation.reasoning_budget_tokens == 128
    assert usage.reasoning_tokens < 128
    assert usage.answer_tokens > 0


def some_quick(prompt):
    """A model that ends its thinking at once where it is asked to be quick."""
    if "quick" in prompt and not prompt.endswith("Final answer:"):
        return ["t", "Final", " answer", ":", " 42", "\n\n"]
    return endless(prompt)


SHARED = {"window_ms": 60_000.0, "tokens_per_query": 48, "cap_tokens": 128, "policy": "uniform"}


@pytest.mark.parametrize("server_ends", [False, True])
async def test_a_running_request_takes_what_a_finished_one_left_where_it_can_use_it(server_ends):
    """A server that was told a budget ends the thinking there: a larger one would be reserved for nothing."""

    async with predictor() as predictions:
        settings = {**SHARED, "predictor": predictions, "window_size": 2}
        backend = ScriptedBackend(
            some_quick, token_seconds=0.01, capabilities=Capabilities(thinking_budget=server_ends)
        )
        async with scheduler(backend, **settings) as address, AsyncSchedulerClient(address) as client:
            quick, slow = await asyncio.gather(ask(client, f"quick: {HARD}"), ask(client, HARD))
            budget = await client.budget()
    allocation, usage = slow
    assert quick[1].reasoning_tokens < 8
    assert (usage.reserved_tokens > allocation.reasoning_budget_tokens) is not server_ends
    assert usage.reasoning_tokens == usage.reserved_tokens  # and it used what it was given
    assert budget.granted_tokens == budget.used_tokens + budget.returned_tokens


@pytest.mark.parametrize("first", [0, 1])
async def test_of_two_running_requests_alike_the_one_that_weighs_more_takes_what_is_left(first):
    """Whichever of them came first."""
    words = [{"weight": 0.25}, {"effort": pb.EFFORT_XHIGH}]
    async with predictor() as predictions:
        settings = {**SHARED, "predictor": predictions, "window_size": 3}
        backend = ScriptedBackend(some_quick, token_seconds=0.01)
        async with scheduler(backend, **settings) as address, AsyncSchedulerClient(address) as client:
            _, *both = await asyncio.gather(
                ask(client, f"quick: {HARD}"), ask(client, HARD, **words[first]), ask(client, HARD, **words[1 - first])
            )
    (equal, light), (_, heavy) = both[first], both[1 - first]
    assert equal.reasoning_budget_tokens == 48
    assert heavy.reserved_tokens > light.reserved_tokens >= 48


async def test_outcomes_that_contradict_a_predictor_take_its_influence_away():
    async with predictor() as predictions:
        settings = {"predictor": predictions, "tokens_per_query": 48, "window_ms": 0.0}
        async with scheduler(ScriptedBackend(endless), **settings) as address, AsyncSchedulerClient(address) as client:
            before, _ = await ask(client, HARD)
            for at in range(120):
                await ask(client, (EASY, HARD)[at % 2], request_id=f"r{at}")
                told = await client.report_outcome(f"r{at}", float(at % 4 < 2))
            after, _ = await ask(client, HARD)
    assert told.recorded
    assert told.reliability < 0.6
    mean_before, mean_after = (sum(a.curve) / len(a.curve) for a in (before, after))
    assert list(before.curve) != list(after.curve)
    assert mean_before != pytest.approx(mean_after, abs=1e-6)


async def test_traces_share_the_budget_and_vote():
    calls = []

    def script(prompt):
        if prompt.endswith("Final answer:"):
            calls.append(prompt)
            return [f" {8 if len(calls) == 1 else 42}", "\n\n"]  # the first to answer is outvoted
        return ["t"] * 4000

    backend = ScriptedBackend(script)
    settings = {"policy": "uniform", "tokens_per_query": 48, "cap_tokens": 128}
    async with scheduler(backend, **settings) as address, AsyncSchedulerClient(address) as client:
        done = await client.complete(HARD, traces=3)
        budget = await client.budget()
    assert done.answer.strip() == "42"
    assert (done.usage.traces, done.usage.votes) == (3, 2)
    assert done.usage.reasoning_tokens == done.allocation.reasoning_budget_tokens == 48
    assert done.reasoning == "t" * 16
    assert budget.used_tokens == 48
    assert budget.granted_tokens == budget.used_tokens + budget.returned_tokens


async def test_an_error_in_one_trace_ends_the_request_and_settles_it():
    backend = ScriptedBackend(endless, error=BackendUnavailableError("gone"), error_after=3)
    settings = {"policy": "uniform", "tokens_per_query": 48, "cap_tokens": 128}
    async with scheduler(backend, **settings) as address, AsyncSchedulerClient(address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.complete(HARD, traces=3)
        budget = await client.budget()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert budget.reserved_tokens == 0
    assert backend.open == 0
