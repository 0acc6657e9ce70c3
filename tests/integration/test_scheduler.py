"""The scheduler over gRPC, with the real predictor, TGI's stand-in, or scripted edges."""

import asyncio
import socket
from contextlib import AsyncExitStack

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from scheduler_service.domain import BackendUnavailableError, PreconditionError
from tests.integration.models import hidden_state_model
from tests.integration.running import bad_fields, balanced, detail, predictor, refused, scheduler, settled
from tests.standins.backend import ScriptedBackend
from tests.standins.tgi import TgiStandIn
from tests.waiting import PATIENCE, eventually


def thinker(prompt):
    """A model that thinks 40 tokens and answers 42; cut short, it answers 7."""
    if prompt.endswith("Final answer:"):
        return [" 7", "\n\n"]
    return [*["step "] * 40, "\n", "Final", " answer", ":", " 42", "\n\n"]


def tgi_settings(tgi, **more):
    return {"backend": "tgi", "backend_url": tgi.url, "template": "demo", **more}


async def test_a_generation_streams_allocation_text_and_usage_in_that_order():
    async with TgiStandIn(thinker, keep_alive_every=3) as tgi, predictor() as predictions:
        async with (
            scheduler(**tgi_settings(tgi, predictor=predictions, tokens_per_query=128)) as address,
            AsyncSchedulerClient(address) as client,
        ):
            events = [event async for event in client.generate("What is 40 + 2?", request_id="mine")]
            budget = await balanced(client)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "allocation"
    assert kinds[-1] == "usage"
    assert set(kinds[1:-1]) == {"text"}
    allocation, usage = events[0].allocation, events[-1].usage
    assert allocation.request_id == "mine"
    assert allocation.prediction_outcome == pb.PREDICTION_OUTCOME_FRESH
    assert len(allocation.curve) == 16
    answer = "".join(e.text.text for e in events if e.text.kind == pb.TEXT_KIND_ANSWER)
    assert answer.strip() == "42"
    assert usage.finish_reason == pb.FINISH_REASON_NATURAL
    assert usage.reasoning_tokens == 44
    assert usage.reserved_tokens == allocation.reasoning_budget_tokens
    assert allocation.expected_tokens <= 128  # which is what is reserved
    assert usage.tokens_saved_vs_cap == 256 - 44
    assert usage.prompt_tokens == 0  # TGI tells it in its last event, and the answer ended before that
    assert budget.used_tokens == 44
    assert budget.bank_tokens == 84  # what was not expected to be used, and what was and was not
    assert budget.covered_requests == 1


async def test_a_budget_that_runs_out_forces_an_answer_from_what_was_thought():
    async with TgiStandIn(thinker, space_after_data=False) as tgi:
        async with (
            scheduler(**tgi_settings(tgi, tokens_per_query=32)) as address,
            AsyncSchedulerClient(address) as client,
        ):
            response = await client.complete("q", max_reasoning_tokens=32)
            await balanced(client)
    assert response.allocation.reasoning_budget_tokens == 32
    assert response.answer == " 7"
    assert response.reasoning == "step " * 32
    assert response.usage.finish_reason == pb.FINISH_REASON_FORCED
    assert response.usage.reasoning_tokens == 32
    assert response.usage.prompt_tokens == 2
    assert tgi.requests[0]["parameters"]["max_new_tokens"] == 32
    assert tgi.requests[1]["inputs"] == "Question: q\n" + ("step " * 32).rstrip() + "\nFinal answer:"


async def test_a_window_shares_its_budget_by_prediction():
    prompts = ["What is 2 + 3?", "What is 487 times 693?"] + [
        f"What is {' + '.join('456789'[:n])} + 3 + 5 + 7?" for n in range(1, 7)
    ]
    async with predictor() as predictions:
        settings = {
            "predictor": predictions,
            "tokens_per_query": 32,
            "window_size": 8,
            "window_ms": 60_000.0,
        }
        async with scheduler(ScriptedBackend(thinker), **settings) as address, AsyncSchedulerClient(address) as client:
            responses = await asyncio.gather(*(client.complete(prompt) for prompt in prompts))
            await balanced(client)
    assert sum(response.allocation.expected_tokens for response in responses) <= 8 * 32 + 1e-6
    assert len({response.allocation.reasoning_budget_tokens for response in responses}) > 1
    assert {response.allocation.window_size for response in responses} == {8}
    assert {response.allocation.baseline_tokens for response in responses} == {32}
    assert {response.allocation.policy for response in responses} == {"envelope"}


@pytest.mark.parametrize("policy", ["envelope", "price"])
async def test_a_request_unlike_the_predictors_training_is_served_with_the_uniform_budget_and_says_why(policy):
    async with predictor() as predictions:
        settings = {"predictor": predictions, "policy": policy}
        async with scheduler(ScriptedBackend(thinker), **settings) as server, AsyncSchedulerClient(server) as client:
            known = await client.complete("What is 4 + 9 - 2?")
            strange = await client.complete("Write a poem about the sea, please.", request_id="poem")
            found, status, budget = await client.find("poem"), await client.status(), await balanced(client)
    assert known.allocation.prediction_outcome == pb.PREDICTION_OUTCOME_FRESH
    given = strange.allocation
    assert given.prediction_outcome == pb.PREDICTION_OUTCOME_ABSTAINED
    assert given.reasoning_budget_tokens == given.baseline_tokens
    assert given.limited_by == pb.BUDGET_LIMIT_NO_PREDICTION
    assert "abstained: the request is unlike its training" in given.explanation
    assert found.allocation.explanation == given.explanation
    assert dict(budget.prediction_outcomes) == {"fresh": 1, "abstained": 1}
    assert (status.coverage, budget.covered_requests) == (0.5, 1)


@pytest.mark.parametrize("address", ["127.0.0.1:9", ""])
async def test_without_a_predictor_everybody_is_served_with_the_uniform_budget(address):
    backend = ScriptedBackend(thinker)
    async with (
        scheduler(backend, predictor=address, window_size=3, window_ms=2000.0) as server,
        AsyncSchedulerClient(server) as client,
    ):
        responses = await asyncio.gather(*(client.complete("q") for _ in range(3)))
        budget = await balanced(client)
    outcome = pb.PREDICTION_OUTCOME_UNAVAILABLE if address else pb.PREDICTION_OUTCOME_DISABLED
    assert {response.allocation.prediction_outcome for response in responses} <= {
        outcome,
        pb.PREDICTION_OUTCOME_TIMEOUT,
    }
    assert {response.allocation.reasoning_budget_tokens for response in responses} == {64}
    assert {response.allocation.policy for response in responses} == {"uniform"}
    assert all(response.answer == " 42" for response in responses)
    assert budget.covered_requests == 0


async def test_a_predictor_that_hangs_costs_its_timeout_and_no_more():
    silent = socket.create_server(("127.0.0.1", 0))  # connections are taken by the kernel and never answered
    port = silent.getsockname()[1]
    settings = {"predictor": f"127.0.0.1:{port}", "predictor_timeout_ms": 50.0}
    async with scheduler(ScriptedBackend(thinker), **settings) as address, AsyncSchedulerClient(address) as client:
        response = await client.complete("q")
        await balanced(client)
    silent.close()
    assert response.allocation.prediction_outcome == pb.PREDICTION_OUTCOME_TIMEOUT
    assert response.allocation.reasoning_budget_tokens == 64


@pytest.mark.parametrize(
    ("job", "code", "field"),
    [
        ({"prompt": ""}, "INVALID_ARGUMENT", "job.prompt"),
        ({"prompt": "x", "min_reasoning_tokens": 15}, "INVALID_ARGUMENT", "job.min_reasoning_tokens"),
        ({"prompt": "x", "max_reasoning_tokens": 257}, "INVALID_ARGUMENT", "job.max_reasoning_tokens"),
        ({"prompt": "x", "min_reasoning_tokens": 64, "max_reasoning_tokens": 32}, "INVALID_ARGUMENT", "job"),
        ({"prompt": "x", "traces": 65}, "INVALID_ARGUMENT", "job.traces"),
        ({"prompt": "x", "hidden_state": [0.0, float("nan")]}, "INVALID_ARGUMENT", "job.hidden_state[1]"),
        ({"prompt": "x", "sampling": pb.Sampling(temperature=-1)}, "INVALID_ARGUMENT", "job.sampling.temperature"),
        ({"prompt": "x", "sampling": pb.Sampling(top_p=float("nan"))}, "INVALID_ARGUMENT", "job.sampling.top_p"),
        ({"prompt": "x", "model": "gpt-9"}, "FAILED_PRECONDITION", "job.model"),
        ({"prompt": "x", "hidden_state": [0.0]}, "FAILED_PRECONDITION", "job.hidden_state"),
        (
            {"prompt": "x", "hidden_state": [0.0] * 4, "hidden_state_layer": 8},
            "FAILED_PRECONDITION",
            "job.hidden_state_layer",
        ),
    ],
)
async def test_bad_input_is_refused_by_name_and_costs_nothing(tmp_path, job, code, field):
    hidden_state_model(tmp_path / "hidden")
    async with predictor(tmp_path, default_model="hidden") as predictions:
        settings = {"predictor": predictions}
        async with scheduler(ScriptedBackend(thinker), **settings) as address, AsyncSchedulerClient(address) as client:
            error = await refused(client.complete(**job))
            assert error.code().name == code
            assert set(bad_fields(error)) == {field}
            with pytest.raises(grpc.aio.AioRpcError) as streamed:
                [event async for event in client.generate(**job)]
            assert streamed.value.code().name == code
            budget = await balanced(client)
    assert budget.used_tokens == 0
    assert budget.requests == 0


async def test_a_prompt_longer_than_the_backend_takes_is_the_callers_fault_and_costs_nothing():
    async with TgiStandIn(thinker, max_input_tokens=20) as tgi:
        async with scheduler(**tgi_settings(tgi)) as address, AsyncSchedulerClient(address) as client:
            error = await refused(client.complete("word " * 100))
            budget = await balanced(client)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert bad_fields(error) == ["job.prompt"]
    assert budget.used_tokens == 0


async def test_a_hidden_state_reaches_the_predictor(tmp_path):
    hidden_state_model(tmp_path / "hidden")
    async with predictor(tmp_path, default_model="hidden") as predictions:
        settings = {"predictor": predictions}
        async with scheduler(ScriptedBackend(thinker), **settings) as address, AsyncSchedulerClient(address) as client:
            with_state = await client.complete("q", hidden_state=[1.0, 0.0, 0.0, 0.0], hidden_state_layer=3)
            without = await client.complete("q")
    assert with_state.allocation.predictor == "hidden@7"
    assert with_state.allocation.curve[0] == pytest.approx(0.731, abs=1e-3)
    assert without.allocation.prediction_outcome == pb.PREDICTION_OUTCOME_REFUSED
    assert without.allocation.policy == "uniform"


@pytest.mark.parametrize("fault", [{"overloaded": False, "fail_after": 5}, {"fail_after": 5, "reset": True}])
async def test_a_backend_that_breaks_is_unavailable_and_only_what_was_used_is_charged(fault):
    async with TgiStandIn(thinker, **fault) as tgi:
        async with scheduler(**tgi_settings(tgi)) as address, AsyncSchedulerClient(address) as client:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                [event async for event in client.generate("q")]
            budget = await balanced(client)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert detail(caught.value, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    assert budget.used_tokens == 4 * 5  # it is gone on with from what it brought, three times


async def test_an_overloaded_backend_says_so_with_status_200_and_is_understood():
    async with TgiStandIn(thinker) as tgi:
        async with scheduler(**tgi_settings(tgi)) as address, AsyncSchedulerClient(address) as client:
            tgi.overloaded = True
            with pytest.raises(grpc.aio.AioRpcError, match="overloaded") as caught:
                [event async for event in client.generate("q")]
            await balanced(client)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_that_leaves_frees_the_backend_and_returns_its_tokens():
    backend = ScriptedBackend(thinker, gate=asyncio.Event(), gate_after=3)
    async with scheduler(backend) as address, AsyncSchedulerClient(address) as client:
        stream = client.stub.Generate(pb.GenerateRequest(job=pb.Job(prompt="q")))
        seen = 0
        async for event in stream:
            seen += event.text.tokens
            if seen == 3:
                break
        assert backend.open == 1
        stream.cancel()
        await eventually(lambda: not backend.open)
        budget = await balanced(client)
    assert budget.used_tokens == 3


async def test_a_client_that_leaves_while_its_window_is_open_costs_nothing():
    backend = ScriptedBackend(thinker)
    async with scheduler(backend, window_ms=60_000.0) as address, AsyncSchedulerClient(address) as client:
        call = client.stub.Complete(pb.CompleteRequest(job=pb.Job(prompt="q")))

        async def pending():
            return (await client.status(0)).pending_requests == 1

        async def left():
            return not await pending()

        await eventually(pending)
        call.cancel()
        await eventually(left)
        budget = await balanced(client)
    assert budget.requests == 0
    assert not backend.calls


async def test_more_requests_than_may_be_in_flight_are_told_when_to_come_back():
    backend = ScriptedBackend(thinker, gate=asyncio.Event())
    async with scheduler(backend, max_in_flight=2) as address, AsyncSchedulerClient(address) as client:
        running = [asyncio.ensure_future(client.complete("q")) for _ in range(2)]
        await eventually(lambda: backend.open == 2)
        error = await refused(client.complete("q"))
        backend.gate.set()
        await asyncio.gather(*running)
        await balanced(client)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0


async def test_one_tenants_quota_leaves_room_for_the_others():
    backend = ScriptedBackend(thinker, gate=asyncio.Event(), gated="slow")
    async with scheduler(backend, max_tenant_in_flight=1, policy="uniform") as address:
        async with AsyncSchedulerClient(address) as client:
            stream = client.generate("slow", tenant="a")
            await anext(stream)
            error = await refused(client.complete("q", tenant="a"))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            violation = detail(error, error_details_pb2.QuotaFailure).violations[0]
            assert violation.subject == "tenant:a"
            assert (await client.complete("q", tenant="b")).answer
            await stream.aclose()
            await eventually(lambda: settled(client))
            assert (await client.complete("q", tenant="a")).answer


@pytest.mark.parametrize("limit", ["tenant_requests_per_second", "tenant_tokens_per_second"])
async def test_a_tenant_that_comes_too_fast_is_told_when_to_come_back(limit):
    settings = {limit: 2.0, "tenant_burst_seconds": 0.5, "policy": "uniform"}
    async with scheduler(ScriptedBackend(thinker), **settings) as address, AsyncSchedulerClient(address) as client:
        assert (await client.complete("q", tenant="a")).answer
        error = await refused(client.complete("q", tenant="a"))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 " + limit.split("_")[1] in detail(error, error_details_pb2.QuotaFailure).violations[0].description
        assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        assert (await client.complete("q", tenant="b")).answer
        await balanced(client)


async def test_requests_for_too_many_tokens_are_told_when_to_come_back():
    backend = ScriptedBackend(thinker, gate=asyncio.Event(), gated="slow")
    settings = {"max_in_flight_tokens": 300, "cap_tokens": 200, "policy": "uniform"}
    async with scheduler(backend, **settings) as address, AsyncSchedulerClient(address) as client:
        stream = client.generate("slow")
        await anext(stream)
        error = await refused(client.complete("q"))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        assert (await client.complete("q", max_reasoning_tokens=100)).answer  # a smaller one fits
        await stream.aclose()


async def test_a_retried_request_joins_the_running_one_and_another_of_its_id_is_refused():
    backend = ScriptedBackend(thinker, gate=asyncio.Event(), gate_after=3)
    async with scheduler(backend) as address, AsyncSchedulerClient(address) as client:
        first = client.generate("q", request_id="same")
        events = [await anext(first), await anext(first)]
        joined = client.generate("q", request_id="same")
        response = [await anext(joined)]
        refusal = await refused(client.complete("another", request_id="same"))
        assert bad_fields(refusal) == ["job.request_id"]
        await first.aclose()  # whoever began it may leave: the other one still reads
        backend.gate.set()
        response += [event async for event in joined]
        assert response[0] == events[0]
        assert response[1].text.text.startswith(events[1].text.text)
        assert response[-1].usage.reasoning_tokens == 44
        assert len(backend.calls) == len({call.prompt for call in backend.calls})
        budget = await balanced(client)
        assert budget.requests == 1
        await client.complete("q", request_id="same")
        assert (await balanced(client)).requests == 2


async def test_a_plan_spends_nothing_and_names_what_it_cannot_use():
    async with scheduler(ScriptedBackend(thinker)) as address, AsyncSchedulerClient(address) as client:
        items = [pb.PlanItem(curve=[0.9] * 4), pb.PlanItem(curve=[0.0, 0.0, 0.0, 0.9]), pb.PlanItem(prompt="no curve")]
        plan = await client.stub.Allocate(pb.AllocateRequest(items=items, tokens_per_query=48, policy="envelope"))
        error = await refused(client.stub.Allocate(pb.AllocateRequest(items=items, policy="magic")))
        budget = await balanced(client)
    assert [a.reasoning_budget_tokens for a in plan.allocations] == [32, 64, 48]
    assert plan.total_tokens == 144
    assert plan.planned_tokens == 144
    assert bad_fields(error) == ["policy"]
    assert budget.granted_tokens == 0


async def test_outcomes_are_recorded_for_predicted_requests():
    async with predictor() as predictions:
        settings = {"predictor": predictions}
        async with scheduler(ScriptedBackend(thinker), **settings) as address, AsyncSchedulerClient(address) as client:
            done = await client.complete("What is 1 + 1?", request_id="a")
            first = await client.report_outcome("a", 1.0)
            unknown = await client.report_outcome("b", 1.0)
            bad = await refused(client.report_outcome("a", 2.0))
    assert first.recorded
    assert first.outcomes == 1
    assert first.mean_expected_accuracy == pytest.approx(done.allocation.expected_accuracy, abs=1e-6)
    assert not unknown.recorded
    assert bad_fields(bad) == ["score"]


async def test_draining_lets_running_requests_finish_and_refuses_new_ones():
    backend = ScriptedBackend(thinker, token_seconds=0.005)
    async with AsyncExitStack() as clients:
        async with scheduler(backend, drain_seconds=PATIENCE) as address:
            client = await clients.enter_async_context(AsyncSchedulerClient(address))
            running = asyncio.ensure_future(client.complete("q"))
            await eventually(lambda: backend.open)
        # Leaving the block drained the server while the request ran.
        assert (await running).answer == " 42"
        error = await refused(client.stub.Complete(pb.CompleteRequest(job=pb.Job(prompt="q"))))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_errors_of_the_backend_become_statuses():
    for raised, code in (
        (BackendUnavailableError("gone"), "UNAVAILABLE"),
        (PreconditionError("job.prompt", "no"), "FAILED_PRECONDITION"),
    ):
        async with (
            scheduler(ScriptedBackend(thinker, error=raised)) as address,
            AsyncSchedulerClient(address) as client,
        ):
            assert (await refused(client.stub.Complete(pb.CompleteRequest(job=pb.Job(prompt="q"))))).code().name == code
            await balanced(client)


async def test_a_cap_that_leaves_no_room_for_a_prompt_is_refused_at_start():
    async with TgiStandIn(thinker, max_total_tokens=280) as tgi:
        with pytest.RaisesGroup(
            pytest.RaisesExc(ValueError, match="cap_tokens: 256 and 32 answer tokens leave no room")
        ):
            async with scheduler(**tgi_settings(tgi), cap_tokens=256):
                pass


@pytest.mark.parametrize("policy", ["uniform", "price", "envelope", "exact"])
@pytest.mark.parametrize("words", [{"effort": pb.EFFORT_NONE}, {"max_reasoning_tokens": 0}], ids=["effort", "limit"])
async def test_a_request_that_may_not_reason_answers_at_once_and_says_nothing_of_the_predictor(policy, words):
    async with predictor() as predictions:
        settings, backend = {"predictor": predictions, "policy": policy}, ScriptedBackend(thinker)
        async with scheduler(backend, **settings) as address, AsyncSchedulerClient(address) as client:
            done = await client.complete("q", request_id="a", **words)
            scored = await client.report_outcome("a", 1.0)
            budget = await balanced(client)
    assert (done.answer.strip(), done.reasoning) == ("7", "")
    assert (done.allocation.reasoning_budget_tokens, done.allocation.floor_tokens) == (0, 0)
    assert (done.usage.reasoning_tokens, budget.used_tokens) == (0, 0)
    assert [call.prompt.endswith("Final answer:") for call in backend.calls] == [True]
    assert not scored.recorded
