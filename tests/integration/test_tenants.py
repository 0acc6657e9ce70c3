"""Request ids are their tenants' own: nobody meets, sees or moves what is another's."""

import asyncio

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from scheduler_service.recent import Recent
from tests.integration.running import balanced, detail, predictor, refused, scheduler
from tests.integration.test_openai_front import thinker
from tests.standins.backend import ScriptedBackend


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("secret-a a\nsecret-b b\n")
    return str(path)


async def test_two_tenants_run_the_same_id_at_once_and_each_gets_its_own_answer(tokens):
    backend = ScriptedBackend(lambda prompt: [" 7", "\n\n"] if prompt.endswith("Final answer:") else ["t"] * 20)
    backend.token_seconds = 0.005
    for policy in ("price", "envelope"):
        async with (
            scheduler(backend, auth_tokens=tokens, policy=policy) as server,
            AsyncSchedulerClient(server, token="secret-a") as a,
            AsyncSchedulerClient(server, token="secret-b") as b,
        ):
            calls = [client.complete(f"of {at}", request_id="same") for at, client in enumerate((a, b))]
            done = await asyncio.gather(*calls)
            assert [one.allocation.request_id for one in done] == ["same", "same"]
            assert (await balanced(a)).requests == 2
            assert [(await client.find("same")).tenant for client in (a, b)] == ["a", "b"]


async def test_an_outcome_of_another_tenants_request_is_not_recorded_and_moves_nothing(tokens):
    async with predictor() as predictions:
        settings = {"predictor": predictions, "predictor_timeout_ms": 5000, "auth_tokens": tokens, "policy": "price"}
        async with (
            scheduler(ScriptedBackend(thinker), **settings) as server,
            AsyncSchedulerClient(server, token="secret-a") as a,
            AsyncSchedulerClient(server, token="secret-b") as b,
        ):
            await a.complete("What is 40 + 2?", request_id="of-a")
            assert not (await b.report_outcome("of-a", 0.0)).recorded
            assert not (await a.status()).predictors
            own = await a.report_outcome("of-a", 1.0)
    assert own.recorded
    assert own.outcomes == 1


async def plan(client, items, **fields):
    return await client.stub.Allocate(pb.AllocateRequest(items=items, **fields), metadata=client._metadata)


async def test_a_plan_passes_identity_admission_rates_and_drain(tokens):
    item, curve = pb.PlanItem(prompt="q"), pb.PlanItem(curve=[0.1, 0.5])
    backend = ScriptedBackend(lambda _: ["t"] * 400, token_seconds=0.02)
    settings = {
        "auth_tokens": tokens,
        "tenant_requests_per_second": 1.0,
        "tenant_burst_seconds": 5.0,
        "max_in_flight": 1,
    }
    async with scheduler(backend, **settings) as server:
        async with AsyncSchedulerClient(server) as nobody:
            assert (await refused(plan(nobody, [item]))).code() is grpc.StatusCode.UNAUTHENTICATED
        async with (
            AsyncSchedulerClient(server, token="secret-a") as a,
            AsyncSchedulerClient(server, token="secret-b") as b,
        ):
            assert len((await plan(a, [item] * 20)).allocations) == 20  # each item that is predicted counts
            error = await refused(plan(a, [item]))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToSeconds() >= 10
            assert (await plan(b, [curve] * 20)).allocations
            running = b.generate("long")
            await anext(running)
            error = await refused(plan(b, [curve]))  # too many requests are in flight
            assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToSeconds() >= 1
            await running.aclose()
            budget = await balanced(b)
    assert budget.requests == 1


async def test_a_large_plan_does_not_hold_up_others():
    """The exact policy takes most of a second for so many; the loop goes on meanwhile."""
    items = [pb.PlanItem(curve=[at % 7 / 10, 0.7, 0.8, 0.9], max_reasoning_tokens=64) for at in range(1100)]
    async with scheduler(ScriptedBackend(thinker), policy="uniform") as server, AsyncSchedulerClient(server) as client:
        planning = asyncio.ensure_future(plan(client, items, policy="exact", tokens_per_query=48))
        answered = 0
        while not planning.done():
            assert (await client.complete("quick")).answer
            answered += 1
        assert len((await planning).allocations) == 1100
        assert answered >= 1
        beyond = await refused(plan(client, items * 3, policy="exact", tokens_per_query=1 << 20))
        assert beyond.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)


keys = st.tuples(st.sampled_from("abc"), st.sampled_from("123"))


@given(st.lists(st.tuples(st.sampled_from(["put", "pop", "any"]), keys), max_size=60), st.integers(1, 5))
def test_what_is_remembered_is_the_newest_and_each_tenants_own(steps, keep):
    recent, model = Recent(keep), []
    for at, (what, key) in enumerate(steps):
        if what == "put":
            recent.put(*key, at)
            model = [*(one for one in model if one[0] != key), (key, at)][-keep:]
        elif what == "pop":
            assert recent.pop(*key) == dict(model).get(key)
            model = [one for one in model if one[0] != key]
        else:
            of_id = [value for (_, number), value in model if number == key[1]]
            assert recent.get(None, key[1]) == (of_id[-1] if of_id else None)
        assert list(recent.newest_first()) == [value for _, value in reversed(model)]
        assert all(recent.get(*key) == value for key, value in model)
        assert len(recent) == len(model) <= keep
