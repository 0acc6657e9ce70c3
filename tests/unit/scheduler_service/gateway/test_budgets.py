"""What a gateway asks: decisions, what passes as it is and why, and settling by name."""

import json
from collections import Counter

import pytest

from scheduler_service.api.identity import Identity
from scheduler_service.api.intake import Intake, ServedModel
from scheduler_service.domain import (
    Allocation,
    BackendUnavailableError,
    OverloadedError,
    Prediction,
    PredictionOutcome,
    QuotaExceededError,
)
from scheduler_service.gateway.budgets import GatewayBudgets, Seen, Way
from scheduler_service.grants import Told
from scheduler_service.planning.budget_range import BudgetRange

CHAT = {":path": "/v1/chat/completions"}
FIELD = "thinking_token_budget"


class FakeGrants:
    """Gives every job the same budget, and remembers jobs and what was told."""

    def __init__(self, budget=64, error=None):
        self.budget, self.error = budget, error
        self.jobs, self.told = [], {}

    def number(self, key):
        found = [at for at, job in enumerate(self.jobs, start=1) if job.key == key and at not in self.told]
        return found[-1] if found else 0

    def taken(self, key):
        return bool(self.number(key))

    async def grant(self, job):
        if self.error:
            raise self.error
        self.jobs.append(job)
        prediction = Prediction(PredictionOutcome.FRESH)
        return Allocation(job.request_id, self.budget, 64, 32, 0, 256, "price", prediction, 0.5, 0.4, 40.0, 1)

    def settle(self, number, told):
        if number in self.told or not 0 < number <= len(self.jobs):
            return None
        self.told[number] = told
        return 0.0


def budgets(grants=None, way=None, identity=None, draining=lambda: False):
    counted = Counter()
    served = ServedModel("m", BudgetRange(64, 16, 256, 32), 0.6)
    intake = Intake(served, identity or Identity(), lambda: 0.0, draining)
    found = GatewayBudgets(grants or FakeGrants(), intake, way or Way(FIELD), lambda name: counted.update([name]))
    return found, counted


def seen(headers=None, returns=False, **fields):
    body = {"messages": [{"role": "user", "content": "a"}], **fields}
    return Seen(json.dumps(body).encode(), {**CHAT, **(headers or {})}, returns)


@pytest.mark.parametrize(
    ("way", "given", "expected"),
    [
        (Way(FIELD), {}, {FIELD: 64}),
        (Way("custom_params.thinking_budget"), {}, {"custom_params": {"thinking_budget": 64}}),
        (Way(FIELD), {FIELD: 500}, {FIELD: 64}),
        (Way(FIELD), {"n": 4}, {FIELD: 16}),
        (Way(), {}, {"max_tokens": 96}),
        (Way(), {"max_tokens": 50}, {"max_tokens": 50}),
        (Way(), {"max_completion_tokens": 5000}, {"max_completion_tokens": 96}),
        (Way(), {"n": 2}, {"max_tokens": 64}),
        (Way(), {"input": ""}, {"max_tokens": 96}),
        (Way(), {"max_output_tokens": 5000}, {"max_tokens": 96}),
        (Way(), {"max_tokens": 5000, "max_completion_tokens": None}, {"max_completion_tokens": 96}),
    ],
)
async def test_a_budget_gets_into_the_body(way, given, expected):
    found, counted = budgets(way=way)
    asked = seen(**given)
    decision = await found.decide(asked)
    assert json.loads(decision.body) == {**json.loads(asked.body), **expected}
    assert counted == {"decided": 1}


@pytest.mark.parametrize(
    ("given", "floor", "cap", "weight"),
    [
        ({}, 16, 256, 1.0),
        ({"reasoning_effort": "none"}, 0, 0, 1.0),
        ({"reasoning_effort": "high"}, 16, 256, 2.0),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, 16, 100, 1.0),
        ({"max_reasoning_tokens": 8}, 8, 8, 1.0),
        ({"min_reasoning_tokens": 48}, 48, 256, 1.0),
        ({"min_reasoning_tokens": 4000}, 256, 256, 1.0),
        ({"max_completion_tokens": 100}, 16, 68, 1.0),
        ({"max_completion_tokens": 100, "n": 2}, 16, 136, 1.0),
        ({"priority": 50}, 16, 256, 2.0),
    ],
)
async def test_callers_words_become_limits_and_weights(given, floor, cap, weight):
    grants = FakeGrants()
    found, _ = budgets(grants)
    await found.decide(seen(**given))
    (job,) = grants.jobs
    assert (job.floor_tokens, job.cap_tokens, job.weight) == (floor, cap, weight)
    assert job.prompt == "a"
    assert job.traces == given.get("n", 1)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Seen(b"{}", {":path": "/v1/embeddings"}), "unread_route"),
        (Seen(b"{}"), "unread_route"),
        (Seen(b"{}", CHAT), "unread_prompt"),
        (Seen(b"", CHAT), "unread_json"),
        (seen({"content-encoding": "br"}), "unread_encoding"),
        (seen(messages=[{"role": "user", "content": "x" * (2 << 20)}]), "unread_size"),
        (seen(n=65), "unread_choices"),
        (seen(reasoning_effort="vast"), "invalidrequest"),
    ],
)
async def test_what_cannot_be_read_passes_and_is_counted_by_its_reason(asked, reason):
    grants = FakeGrants()
    found, counted = budgets(grants)
    assert await found.decide(asked) is None
    assert counted == {reason: 1}
    assert grants.jobs == []


@pytest.mark.parametrize(
    ("error", "reason"), [(BackendUnavailableError("x"), "backendunavailable"), (RuntimeError("x"), "fault")]
)
async def test_what_fails_passes(error, reason):
    found, counted = budgets(FakeGrants(error=error))
    assert await found.decide(seen()) is None
    assert counted == {reason: 1}


@pytest.mark.parametrize("error", [OverloadedError("full", 1.0), QuotaExceededError("a", "its share", 2.0)])
async def test_what_admission_refuses_is_raised(error):
    found, counted = budgets(FakeGrants(error=error))
    with pytest.raises(type(error)):
        await found.decide(seen())
    assert counted == {"refused": 1}


async def test_while_draining_requests_pass():
    found, counted = budgets(draining=lambda: True)
    assert await found.decide(seen()) is None
    assert counted == {"draining": 1}


async def test_a_grant_has_a_name_by_which_it_is_settled_once():
    grants = FakeGrants()
    found, _ = budgets(grants)
    headers = {"x-request-id": "one/two ü", "x-tenant-id": "a/b"}
    decision = await found.decide(seen(headers))
    assert decision.headers == {
        "x-predictive-scheduling-request": f"a%2Fb/one%2Ftwo%20%C3%BC@{found.instance}.1",
        "x-predictive-scheduling-budget": "64",
    }
    assert found.settle(decision.grant, Told(3))
    assert not found.settle(decision.grant, Told(3))
    assert grants.told == {1: Told(3)}


@pytest.mark.parametrize("name", ["", "x" * 129, "same"])
async def test_a_name_that_is_none_or_taken_is_made(name):
    grants = FakeGrants()
    found, _ = budgets(grants)
    first = await found.decide(seen({"x-request-id": "same"}))
    second = await found.decide(seen({"x-request-id": name}))
    assert (first.grant, second.grant) == (1, 2)
    assert grants.jobs[0].request_id == "same"
    assert len(grants.jobs[1].request_id) == 32


async def test_unknown_grants_are_nobodys():
    found, _ = budgets()
    for number in (0, 1, -1):
        assert not found.settle(number, Told(1))


async def test_each_process_has_a_name_of_its_own():
    assert budgets()[0].instance != budgets()[0].instance


@pytest.mark.parametrize(
    ("adds", "returns", "given", "added"),
    [
        (None, True, {"stream": True}, True),
        (None, False, {"stream": True}, False),
        (True, False, {"stream": True}, True),
        (False, True, {"stream": True}, False),
        (True, True, {}, False),
        (True, True, {"stream": True, "stream_options": {"include_usage": True}}, False),
        (True, True, {"stream": True, "stream_options": {"include_usage": False}}, True),
        (True, True, {"stream": True, "input": ""}, True),
    ],
)
async def test_streams_are_asked_for_their_usage_where_somebody_takes_it_out(adds, returns, given, added):
    found, _ = budgets(way=Way(FIELD, adds_usage=adds))
    decision = await found.decide(seen(returns=returns, **given))
    options = json.loads(decision.body).get("stream_options", {})
    assert decision.usage_added is added
    assert decision.headers.get("x-predictive-scheduling-usage") == ("added" if added else None)
    assert options.get("include_usage", False) is (added or given.get("stream_options", {}).get("include_usage", False))


async def test_other_apis_are_limited_by_their_own_field():
    found, _ = budgets(way=Way())
    for path, prompt, field in (("completions", "prompt", "max_tokens"), ("responses", "input", "max_output_tokens")):
        body = {prompt: "a", "max_completion_tokens": 5000}
        decision = await found.decide(Seen(json.dumps(body).encode(), {":path": f"/v1/{path}"}))
        assert json.loads(decision.body) == {**body, field: 96}


async def test_responses_say_their_usage_themselves():
    found, _ = budgets(way=Way(adds_usage=True))
    decision = await found.decide(Seen(b'{"input": "a", "stream": true}', {":path": "/v1/responses"}, returns=True))
    assert json.loads(decision.body) == {"input": "a", "stream": True, "max_output_tokens": 96}


async def test_callers_without_a_token_pass_without_a_budget():
    from scheduler_service.api.identity import _digest

    found, counted = budgets(identity=Identity({_digest("secret"): "a"}))
    assert await found.decide(seen()) is None
    decision = await found.decide(seen({"authorization": "Bearer secret"}))
    assert decision.headers["x-predictive-scheduling-request"].startswith("a/")
    assert counted == {"unauthenticated": 1, "decided": 1}


async def test_prompts_that_no_encoding_takes_are_read_all_the_same():
    grants = FakeGrants()
    found, _ = budgets(grants)
    body = b'{"messages": [{"role": "user", "content": "a\\ud800b"}]}'
    decision = await found.decide(Seen(body, CHAT))
    assert grants.jobs[0].prompt == "a?b"
    assert decision.body.endswith(body[1:])
