"""Requests that run before they are predicted: the engine sends their state, and the budget comes from it."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling.telemetry import Telemetry
from scheduler_service.domain import BackendUnavailableError
from scheduler_service.generation.forcing import BudgetForcing
from scheduler_service.pipeline import Pipeline
from tests.integration.models import hidden_state_model
from tests.integration.running import balanced, predictor, refused, scheduler
from tests.standins.connector import ConnectorStandIn
from tests.standins.openai import OpenAiStandIn
from tests.waiting import PATIENCE, eventually

FLOOR, MEAN, CAP = 8, 64, 256


def endless(prompt):
    """A model that thinks on until it is cut, and then answers 7."""
    if prompt.endswith("Final answer:"):
        return [" 7", "\n\n"]
    return ["step "] * 400


def state(prompt):
    """Questions with "hard" in them gain by thinking."""
    return [2.0] * 4 if "hard" in prompt else [0.0] * 4


@asynccontextmanager
async def served(
    folder, connector, *, script=endless, kind="unix", predictions="", reporting=None, others="", **settings
):
    """A predictor of hidden states, an engine with our connector, and a scheduler; yields client and engine."""
    model = hidden_state_model(folder / "models" / "hidden", curve="rising")
    engine = {key: settings.pop(key) for key in ("error", "error_after", "token_seconds") if key in settings}
    async with (
        OpenAiStandIn(script, connector=connector, **engine) as server,
        predictor(model.parent, default_model="hidden") as found,
    ):
        settings = {
            "backend": "vllm", "backend_url": server.url + others, "template": "demo",
            "predictor": predictions or found,
            "policy": "price", "tokens_per_query": MEAN, "floor_tokens": FLOOR, "cap_tokens": CAP,
            "reports_listen": f"unix:{folder}/states.sock" if kind == "unix" else "tcp://127.0.0.1:0",
            **settings,
        }  # fmt: skip
        async with (
            scheduler(reporting=reporting or Telemetry(), **settings) as address,
            AsyncSchedulerClient(address) as client,
        ):
            yield client, server


async def events_of(client, prompt, **fields):
    """A request's events, the allocation first."""
    fields = {"allocation_may_follow": False, **fields}
    return [event async for event in client.generate(prompt, **fields)]


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_the_allocation_comes_first_and_from_the_state_that_the_engine_sends(kind, tmp_path):
    connector = ConnectorStandIn(state)
    async with served(tmp_path, connector, kind=kind) as (client, server):
        hard, easy = await events_of(client, "a hard one"), await events_of(client, "an easy one")
        budget = await balanced(client)
    for events in (hard, easy):
        kinds = [event.WhichOneof("event") for event in events]
        assert (kinds[0], kinds[-1], set(kinds[1:-1])) == ("allocation", "usage", {"text"})
        allocation, usage = events[0].allocation, events[-1].usage
        assert allocation.prediction_outcome == pb.PREDICTION_OUTCOME_FRESH
        assert usage.reasoning_tokens == allocation.reasoning_budget_tokens
        assert sum(e.text.tokens for e in events if e.text.kind == pb.TEXT_KIND_REASONING) == usage.reasoning_tokens
        assert "".join(e.text.text for e in events if e.text.kind == pb.TEXT_KIND_ANSWER).strip() == "7"
        assert usage.finish_reason == pb.FINISH_REASON_FORCED
    assert hard[0].allocation.reasoning_budget_tokens > easy[0].allocation.reasoning_budget_tokens
    assert hard[0].allocation.curve[-1] > easy[0].allocation.curve[-1]
    assert server.requests[0]["max_tokens"] == CAP  # it began before its budget was known
    assert [asked["layers"] for asked in connector.asked] == [[3], [], [3], []]
    assert len({asked["id"] for asked in connector.asked}) == 4
    assert budget.used_tokens == sum(events[-1].usage.reasoning_tokens for events in (hard, easy))


async def test_text_comes_before_the_allocation_to_a_caller_who_takes_it(tmp_path):
    connector = ConnectorStandIn(state, mode="late")
    async with served(tmp_path, connector) as (client, _):
        events = []
        async for event in client.generate("a hard one"):
            connector.late.set()  # the state comes only now
            events.append(event)
        await balanced(client)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "text"
    assert kinds.count("allocation") == kinds.count("usage") == 1
    assert kinds[-1] == "usage"
    allocation = events[kinds.index("allocation")].allocation
    assert allocation.prediction_outcome == pb.PREDICTION_OUTCOME_FRESH
    assert events[-1].usage.reasoning_tokens == allocation.reasoning_budget_tokens


async def test_a_thought_that_ends_by_itself_while_the_budget_is_decided_is_whole(tmp_path):
    def brief(prompt):
        return ["so", "\n", "Final", " answer", ":", " 42", "\n\n"]

    async with served(tmp_path, ConnectorStandIn(state), script=brief) as (client, _):
        done = await client.complete("a hard one")
        await balanced(client)
    assert done.answer.strip() == "42"
    assert done.usage.finish_reason == pb.FINISH_REASON_NATURAL
    assert done.usage.reasoning_tokens == 5


@pytest.mark.parametrize("mode", ["never", "late", "gone"])
async def test_without_a_state_in_time_the_request_gets_uniforms_budget_and_is_served(mode, tmp_path):
    connector = ConnectorStandIn(state, mode=mode)
    async with served(tmp_path, connector, predictor_timeout_ms=30) as (client, _):
        events = []
        async for event in client.generate("a hard one", allocation_may_follow=False):
            connector.late.set()  # it is too late now
            events.append(event)
        budget = await balanced(client)
    assert events[0].allocation.prediction_outcome == pb.PREDICTION_OUTCOME_TIMEOUT
    assert events[0].allocation.reasoning_budget_tokens == MEAN
    assert events[-1].usage.reasoning_tokens == MEAN
    assert budget.used_tokens == MEAN
    assert budget.covered_requests == 0


async def test_where_the_engine_does_not_keep_the_layer_the_outcome_is_refused(tmp_path):
    async with served(tmp_path, ConnectorStandIn(state, layers=(16,))) as (client, _):
        done = await client.complete("a hard one")
        await balanced(client)
    assert done.allocation.prediction_outcome == pb.PREDICTION_OUTCOME_REFUSED
    assert done.usage.reasoning_tokens == done.allocation.reasoning_budget_tokens == MEAN


@pytest.mark.parametrize("values", [[1.0] * 3, [1.0] * 5000])
async def test_a_state_of_another_size_predicts_nothing_and_the_request_is_served(values, tmp_path):
    async with served(tmp_path, ConnectorStandIn(lambda prompt: values)) as (client, _):
        done = await client.complete("a hard one")
        await balanced(client)
    assert done.allocation.prediction_outcome == pb.PREDICTION_OUTCOME_REFUSED
    assert done.usage.reasoning_tokens == MEAN


@pytest.fixture
def counted(monkeypatch):
    """How many pieces the forcing machines of this process were fed."""
    fed, feed = [], BudgetForcing.feed

    def feed_and_count(forcing, text, tokens):
        fed.append(tokens)
        return feed(forcing, text, tokens)

    monkeypatch.setattr(BudgetForcing, "feed", feed_and_count)
    return fed


async def test_no_more_than_the_floor_is_read_before_the_budget_is_known_and_who_leaves_then_pays_for_it(
    tmp_path, counted
):
    connector = ConnectorStandIn(state, mode="never")
    async with served(tmp_path, connector) as (client, _):
        leaving = asyncio.ensure_future(events_of(client, "a hard one", tenant="t"))
        await eventually(lambda: len(counted) == FLOOR)
        assert (await client.budget()).reserved_tokens == 0
        leaving.cancel()
        await asyncio.wait([leaving])
        await eventually(lambda: _used(client, FLOOR))
        budget = await balanced(client)
        await eventually(lambda: connector.generated)  # and the engine heard that it may stop
    assert len(counted) == FLOOR
    assert budget.used_tokens == FLOOR


async def _used(client, tokens):
    return (await client.budget()).used_tokens == tokens


async def test_who_leaves_before_the_first_token_pays_nothing(tmp_path):
    held = asyncio.Event()
    connector = ConnectorStandIn(state, mode="never")
    async with served(tmp_path, connector, script=lambda prompt: []) as (client, server):
        server._generate = lambda *_: held.wait()
        leaving = asyncio.ensure_future(events_of(client, "a hard one"))
        await eventually(lambda: connector.asked)
        leaving.cancel()
        await asyncio.wait([leaving])
        await eventually(lambda: connector.generated)
        await eventually(lambda: _idle(client))
        assert (await balanced(client)).used_tokens == 0


async def test_a_budget_that_was_reserved_and_then_nobodys_is_settled(tmp_path, monkeypatch):
    """As where the caller leaves in the very moment of the decision."""
    allocate = Pipeline.allocate

    async def allocate_and_fail(pipeline, job):
        await allocate(pipeline, job)
        raise BackendUnavailableError("in that moment")

    monkeypatch.setattr(Pipeline, "allocate", allocate_and_fail)
    async with served(tmp_path, ConnectorStandIn(state)) as (client, _):
        failed = await refused(client.complete("a hard one"))
        budget = await balanced(client)
    assert failed.code() is grpc.StatusCode.UNAVAILABLE
    assert budget.used_tokens <= FLOOR * budget.requests


async def _idle(client):
    return not (await client.status()).pending_requests


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("mode", ["never", "sent"])
async def test_an_engine_that_fails_is_an_error_and_what_it_generated_is_settled(after, mode, tmp_path, counted):
    error = {"message": "EngineCore died", "code": 500}
    connector = ConnectorStandIn(state, mode=mode)
    # Beyond the floor nothing is read, nor an error seen, before the state's time is over.
    async with served(tmp_path, connector, error=error, error_after=after, predictor_timeout_ms=500) as (client, _):
        failed = await refused(events_of(client, "a hard one"))
        budget = await balanced(client)
    assert failed.code() is grpc.StatusCode.UNAVAILABLE
    assert budget.used_tokens == sum(counted)
    # Nothing answered: the client tries again. What brought something is gone on with, three times.
    assert budget.used_tokens == 4 * after * budget.requests


async def test_an_engine_whose_connection_breaks_before_the_state_is_an_error_and_nothing_stays_reserved(tmp_path):
    async def die(response, body, progress):
        raise ConnectionResetError

    connector = ConnectorStandIn(state, mode="never")
    async with served(tmp_path, connector, predictor_timeout_ms=500) as (client, server):
        server._generate = die
        failed = await refused(events_of(client, "a hard one"))
        budget = await balanced(client)
    assert failed.code() is grpc.StatusCode.UNAVAILABLE
    assert budget.used_tokens == 0


async def test_the_state_comes_from_another_engine_where_the_first_one_failed(tmp_path):
    """Both report under the id of the call; the first one's end is not the last word."""
    error, broken = {"message": "broken", "code": 500}, ConnectorStandIn(state, mode="never")
    async with OpenAiStandIn(endless, connector=ConnectorStandIn(state)) as good:
        async with served(tmp_path, broken, error=error, others=f",{good.url}") as (client, _):
            while not broken.generated:
                done = await client.complete("a hard one")
                assert done.allocation.prediction_outcome == pb.PREDICTION_OUTCOME_FRESH
            await balanced(client)


async def test_what_the_engine_generated_in_vain_is_in_the_record_and_in_the_metrics(tmp_path):
    page = InMemoryMetricReader()
    telemetry = Telemetry(TracerProvider(), MeterProvider([page]), page)
    connector = ConnectorStandIn(state, beyond=2)
    async with served(tmp_path, connector, reporting=telemetry) as (client, _):
        done = await client.complete("a hard one", request_id="mine")
        await eventually(lambda: len(connector.generated) == 2)
        read = done.usage.reasoning_tokens + done.usage.answer_tokens
        wasted = sum(connector.generated.values()) - read
        assert wasted >= 4

        async def told():
            record = await client.find("mine")
            return record.HasField("wasted_tokens") and record.wasted_tokens == wasted

        await eventually(told)
        points = [
            point
            for resource in page.get_metrics_data().resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name.endswith(".wasted")
            for point in metric.data.data_points
        ]
    assert [(point.count, point.sum) for point in points] == [(2, wasted)]


async def test_a_request_with_a_deadline_is_cut_in_time_before_its_budget_is_known_and_stays_cut(tmp_path):
    """The longest answer would take until after the deadline, at whatever pace this is."""
    connector = ConnectorStandIn(state, mode="never")
    slow = {"token_seconds": 0.03, "answer_tokens": 1500, "floor_tokens": 60, "predictor_timeout_ms": 500}
    async with served(tmp_path, connector, **slow) as (client, _):
        events = await events_of(client, "a hard one", timeout=30.0)
        await balanced(client)
    assert events[0].allocation.prediction_outcome == pb.PREDICTION_OUTCOME_TIMEOUT
    assert events[0].allocation.reasoning_budget_tokens == MEAN
    assert events[-1].usage.reasoning_tokens < 16
    assert events[-1].usage.finish_reason == pb.FINISH_REASON_FORCED


async def test_a_state_of_the_callers_own_is_used_and_none_is_asked_for(tmp_path):
    connector = ConnectorStandIn(state)
    async with served(tmp_path, connector) as (client, _):
        done = await client.complete("an easy one", hidden_state=[2.0] * 4, hidden_state_layer=3)
        await balanced(client)
    assert done.allocation.prediction_outcome == pb.PREDICTION_OUTCOME_FRESH
    assert [asked["layers"] for asked in connector.asked] == [[], []]


async def test_several_traces_are_planned_before_they_run(tmp_path):
    connector = ConnectorStandIn(state)
    async with served(tmp_path, connector) as (client, _):
        done = await client.complete("a hard one", traces=3)
        await balanced(client)
    assert done.usage.traces == 3
    assert done.allocation.prediction_outcome != pb.PREDICTION_OUTCOME_FRESH
    assert all(asked["layers"] == [] for asked in connector.asked)


async def test_while_the_predictor_is_away_no_state_is_asked_for(tmp_path):
    connector = ConnectorStandIn(state)
    nowhere = "127.0.0.1:1"
    async with served(tmp_path, connector, predictions=nowhere, predictor_timeout_ms=200) as (client, _):
        done = await client.complete("a hard one")
        await balanced(client)
    assert done.allocation.prediction_outcome in (pb.PREDICTION_OUTCOME_UNAVAILABLE, pb.PREDICTION_OUTCOME_TIMEOUT)
    assert done.allocation.reasoning_budget_tokens == MEAN
    assert [asked["layers"] for asked in connector.asked] == [[], []]


async def test_a_predictor_of_texts_needs_no_state(tmp_path):
    connector = ConnectorStandIn(state)
    async with predictor() as texts, served(tmp_path, connector, predictions=texts) as (client, _):
        done = await client.complete("What is 40 + 2?")
        await balanced(client)
    assert done.allocation.prediction_outcome == pb.PREDICTION_OUTCOME_FRESH
    assert [asked["layers"] for asked in connector.asked] == [[], []]


async def test_many_at_once_each_get_their_own_state(tmp_path):
    async with served(tmp_path, ConnectorStandIn(state)) as (client, _):
        prompts = [f"{('a hard', 'an easy')[at % 2]} one, {at}" for at in range(24)]
        async with asyncio.timeout(PATIENCE):
            done = await asyncio.gather(*map(client.complete, prompts))
        budget = await balanced(client)
    curves = [one.allocation.curve[-1] for one in done]
    assert min(curves[::2]) > max(curves[1::2])
    assert all(one.allocation.prediction_outcome == pb.PREDICTION_OUTCOME_FRESH for one in done)
    assert budget.used_tokens == sum(one.usage.reasoning_tokens for one in done)
