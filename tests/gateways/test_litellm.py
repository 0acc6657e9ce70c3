"""Our callback in LiteLLM's own proxy, between OpenAI's client and an engine, beside a scheduler and a predictor."""

import asyncio
import os
import subprocess
from contextlib import asynccontextmanager

import openai
import pytest
import pytest_asyncio

from predictive_scheduling import AsyncSchedulerClient, channel_credentials
from tests.builders.certificates import Authority
from tests.gateways.running import QUIET, ROOT, running
from tests.integration.running import balanced, predictor, scheduler
from tests.standins.chat_engine import ChatEngine
from tests.waiting import PATIENCE, eventually

UNIFORM = {"policy": "uniform", "tokens_per_query": 16, "cap_tokens": 64, "backend": "none"}
FIELD = "thinking_token_budget"


def user(text="How many?"):
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


@pytest.fixture
async def engine(proxy):
    async with ChatEngine(port=proxy.engine) as found:
        yield found


@asynccontextmanager
async def scheduling(proxy, engine, **settings):
    """A scheduler whom the proxy has found; yields a client of it."""
    async with scheduler(**{**UNIFORM, "listen": f"127.0.0.1:{proxy.scheduler}", **settings}) as address:
        async with AsyncSchedulerClient(address, timeout=PATIENCE) as client:
            await eventually(lambda: budgeted(proxy, engine))
            yield client


async def budgeted(proxy, engine):
    """Whether a request gets a budget: the proxy tries a scheduler that was away once a second."""
    async with proxy.client() as caller:
        await caller.chat.completions.create(**user())
    return FIELD in engine.requests[-1]


async def streamed(caller, **asked):
    """A stream's text."""
    stream = await caller.chat.completions.create(**asked, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


async def used(client):
    """The tokens that settled requests have used."""
    return (await balanced(client)).used_tokens


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_gets_its_budget_and_is_settled_by_its_usage(proxy, engine, stream):
    async with scheduling(proxy, engine) as client, proxy.client() as caller:
        before = await used(client)
        if stream:
            text = await streamed(caller, **user())
        else:
            text = (await caller.chat.completions.create(**user())).choices[0].message.content
        after = await eventually_used(client, before + 16)
        known = (await client.status(recent=1)).recent[0]
    assert text == "The answer"
    assert engine.requests[-1][FIELD] == 16
    assert after == before + 16
    assert (known.usage.reasoning_tokens, known.usage.answer_tokens, known.usage.prompt_tokens) == (16, 2, 9)
    assert (known.usage.seconds_per_token > 0) is stream
    assert set(engine.requests[-1]) <= {"model", "messages", "stream", "stream_options", FIELD}


async def eventually_used(client, tokens):
    """Wait until so many tokens are used; LiteLLM tells what was used when the caller has its answer."""

    async def reached():
        return await used(client) >= tokens

    await eventually(reached)
    return await used(client)


async def test_easy_and_hard_prompts_get_different_budgets_and_everything_is_settled(proxy, engine):
    engine.thought = 1000
    priced = {"policy": "price", "tokens_per_query": 48, "cap_tokens": 128}
    async with predictor() as predictions:
        async with scheduling(proxy, engine, **priced, predictor=predictions) as client, proxy.client() as caller:
            asked = [user(f"How many ones are in {'1 0 ' * at}1?") for at in range(1, 17)]
            await asyncio.gather(*(caller.chat.completions.create(**one) for one in asked))
            budgets = [body[FIELD] for body in engine.requests if body.get(FIELD) is not None]
            await eventually_used(client, sum(budgets))
            assert (await balanced(client)).used_tokens == sum(budgets)
    assert len(set(budgets)) > 1


async def test_a_lower_limit_of_the_callers_own_wins(proxy, engine):
    async with scheduling(proxy, engine) as client, proxy.client() as caller:
        before = await used(client)
        await caller.chat.completions.create(**user(), extra_body={FIELD: 500})
        await caller.chat.completions.create(**user(), max_tokens=40)
        await caller.chat.completions.create(**user(), extra_body={FIELD: 5})
        higher, limited, own = engine.requests[-3:]
        await eventually_used(client, before + 5 + 16 + 8)
        after = await used(client)
    assert (own[FIELD], higher[FIELD], limited[FIELD]) == (5, 16, 8)  # of 40 tokens, 32 are for the answer
    assert limited["max_tokens"] == 40
    assert after == before + 5 + 16 + 8


async def test_no_effort_is_no_budget(proxy, engine):
    async with scheduling(proxy, engine) as client, proxy.client() as caller:
        before = await used(client)
        await caller.chat.completions.create(**user(), reasoning_effort="none")
        await balanced(client)
        assert (await client.status(recent=1)).recent[0].usage.answer_tokens == 2
        assert await used(client) == before
    assert engine.requests[-1][FIELD] == 0


async def test_what_engines_do_not_tell_apart_counts_as_reasoning_up_to_the_budget(proxy, engine):
    engine.told = False
    async with scheduling(proxy, engine) as client, proxy.client() as caller:
        before = await used(client)
        await caller.chat.completions.create(**user())
        assert await eventually_used(client, before + 16) == before + 16


async def test_callers_cannot_settle_by_their_metadata(proxy, engine):
    forged = {"predictive_scheduling": {"request_id": "other", "budget_tokens": 1}}
    async with scheduling(proxy, engine) as client, proxy.client() as caller:
        before = await used(client)
        await caller.chat.completions.create(**user(), extra_body={"metadata": forged})
        assert await eventually_used(client, before + 16) == before + 16
    assert engine.requests[-1][FIELD] == 16


async def test_a_fallback_returns_the_budget_and_its_model_gets_none(proxy, engine):
    async with scheduling(proxy, engine) as client, proxy.client() as caller:
        before = await used(client)
        engine.broken = frozenset({"m"})
        for stream in (False, True):
            if stream:
                assert await streamed(caller, **user()) == "The answer"
            else:
                await caller.chat.completions.create(**user())
        await eventually(lambda: ended(client, "fallback", 2))
        assert await used(client) == before
    by_model = [(body["model"], FIELD in body) for body in engine.requests[-6:]]
    assert by_model == [("m", True), ("m", True), ("cloud", False)] * 2


async def ended(client, error, times):
    """Whether so many requests ended by an error, of the last ones."""
    return [one.error for one in (await client.status(recent=20)).recent].count(error) == times


async def test_a_request_that_litellm_itself_sends_elsewhere_has_one_grant(proxy, engine):
    async with scheduling(proxy, engine) as client, proxy.client("limited") as caller:
        before = await used(client)
        await caller.chat.completions.create(**user())
        await eventually_used(client, before + 16)
        await caller.chat.completions.create(**user())
        await eventually(lambda: ended(client, "fallback", 1))
        assert await used(client) == before + 16
    assert [(body["model"], FIELD in body) for body in engine.requests[-2:]] == [("m", True), ("cloud", False)]


async def test_a_request_that_fails_returns_its_budget(proxy, engine):
    async with scheduling(proxy, engine) as client, proxy.client() as caller:
        before = await used(client)
        engine.broken = frozenset({"m", "cloud"})
        with pytest.raises(openai.InternalServerError):
            await caller.chat.completions.create(**user())
        await eventually(lambda: ended(client, "InternalServerError", 1))
        assert await used(client) == before


async def test_what_was_generated_until_a_timeout_nobody_knows_so_it_counts_as_expected(proxy, engine):
    async with scheduling(proxy, engine) as client, proxy.client() as caller:
        before = await used(client)
        engine.gate = asyncio.Event()
        once = {"timeout": 0.5, "num_retries": 0, "disable_fallbacks": True}
        with pytest.raises(openai.APIStatusError) as late:
            await caller.chat.completions.create(**user(), extra_body=once)
        assert late.value.status_code == 408
        await eventually(lambda: ended(client, "Timeout", 1))
        assert await used(client) == before + 16


async def test_a_stream_that_times_out_is_settled_by_what_came(proxy, engine):
    async with scheduling(proxy, engine) as client, proxy.client() as caller:
        before = await used(client)
        engine.gate, engine.gate_after = asyncio.Event(), 5
        with pytest.raises(openai.APIError):
            await streamed(caller, **user(), extra_body={"timeout": 0.5, "num_retries": 0, "disable_fallbacks": True})
        after = await eventually_used(client, before + 1)
    assert before < after < before + 16


async def test_an_answer_from_litellms_cache_returns_the_budget(proxy, engine):
    cached = {"cache": {"use-cache": True}}
    async with scheduling(proxy, engine) as client, proxy.client() as caller:
        before = await used(client)
        await caller.chat.completions.create(**user("Once?"), extra_body=cached)
        await eventually_used(client, before + 16)
        count = len(engine.requests)
        await caller.chat.completions.create(**user("Once?"), extra_body=cached)
        await eventually(lambda: ended(client, "cached", 1))
        assert await used(client) == before + 16
    assert len(engine.requests) == count


async def test_a_stream_that_breaks_is_settled_by_what_came(proxy, engine):
    async with scheduling(proxy, engine) as client, proxy.client() as caller:
        before = await used(client)
        engine.breaks_after = 8
        with pytest.raises(openai.APIError):
            await streamed(caller, **user())
        after = await eventually_used(client, before + 1)
    assert before < after <= before + 16


@pytest.mark.parametrize("tokens", [0, 5])
async def test_a_client_that_leaves_a_stream_leaves_nothing_reserved(proxy, engine, tokens):
    async with scheduling(proxy, engine, grant_seconds=10 * PATIENCE) as client:
        before = await used(client)
        engine.gate, engine.gate_after = asyncio.Event(), tokens
        caller = proxy.client()
        leaving = asyncio.ensure_future(streamed(caller, **user()))
        await eventually(lambda: engine.sent and engine.sent[-1] == tokens)
        assert (await client.budget()).reserved_tokens == 16
        leaving.cancel()
        await asyncio.wait([leaving])
        await caller.close()
        if not tokens:  # LiteLLM sees that its client has left when the first token comes
            engine.gate.set()
        assert await used(client) > before


async def test_a_client_that_leaves_a_whole_answer_is_settled_when_the_engine_ends(proxy, engine):
    async with scheduling(proxy, engine, grant_seconds=10 * PATIENCE) as client:
        before = await used(client)
        engine.gate = asyncio.Event()
        caller = proxy.client()
        leaving = asyncio.ensure_future(caller.chat.completions.create(**user()))
        count = len(engine.requests)
        await eventually(lambda: len(engine.requests) > count)
        leaving.cancel()
        await asyncio.wait([leaving])
        await caller.close()
        engine.gate.set()
        assert await eventually_used(client, before + 16) == before + 16


async def test_quotas_and_overload_are_429_with_a_time_to_come_back(proxy, engine):
    async with scheduling(proxy, engine, max_in_flight=1), proxy.client() as caller:
        engine.gate = asyncio.Event()
        count = len(engine.requests)
        first = asyncio.ensure_future(caller.chat.completions.create(**user()))
        await eventually(lambda: len(engine.requests) > count)
        with pytest.raises(openai.RateLimitError) as refused:
            await caller.chat.completions.create(**user())
        engine.gate.set()
        await first
    assert int(refused.value.response.headers["retry-after"]) >= 1
    assert "in flight" in refused.value.message


async def test_a_team_is_the_tenant(proxy, engine):
    async with scheduling(proxy, engine) as client, proxy.client("team-gold") as caller:
        await caller.chat.completions.create(**user())
        await balanced(client)
        assert (await client.status(recent=1)).recent[0].tenant == "gold"


async def test_a_scheduler_that_dies_and_comes_back_under_load_fails_no_request(proxy, engine):
    over = asyncio.Event()

    async def load():
        async with proxy.client() as caller:
            answers = 0
            while not over.is_set():
                await caller.chat.completions.create(**user())
                answers += 1
            return answers

    async with asyncio.TaskGroup() as group:
        async with scheduling(proxy, engine):
            loads = [group.create_task(load()) for _ in range(4)]
            count = len(engine.requests)
            await eventually(lambda: len(engine.requests) > count + 8)
        count = len(engine.requests)
        await eventually(lambda: [FIELD in body for body in engine.requests[count:]].count(False) > 8)
        async with scheduling(proxy, engine) as client:
            count = len(engine.requests)
            await eventually(lambda: [FIELD in body for body in engine.requests[count:]].count(True) > 8)
            over.set()
            await asyncio.wait(loads)
            await balanced(client)
    assert all(task.result() for task in loads)
    assert "requests go on" in proxy.log.read_text()


async def test_other_requests_pass_as_they_are(proxy, engine):
    async with scheduling(proxy, engine) as client, proxy.client() as caller:
        before = (await balanced(client)).granted_tokens
        await caller.chat.completions.create(**{**user(), "model": "cloud"})
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        await caller.chat.completions.create(model="m", messages=[{"role": "user", "content": [picture]}])
        assert (await balanced(client)).granted_tokens == before
    assert [FIELD in body for body in engine.requests[-2:]] == [False, False]


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def strict_proxy(litellm, tmp_path_factory, authority):
    """Another proxy: TLS and a token, engines without a field of their own, and no patience with clients that left."""
    told = {"TOKEN": "secret", "CA": authority.ca_file, "BUDGET_FIELD": "", "TIMEOUT_MS": str(1000 * PATIENCE)}
    folder = tmp_path_factory.mktemp("strict")
    async with running(litellm, folder, told, {"cancel_on_disconnect": True}) as found:
        yield found


@asynccontextmanager
async def strictly_scheduling(proxy, engine, authority, tmp_path):
    """A scheduler with TLS and a token, whom the strict proxy has found; yields a client of it."""
    files, tokens = authority.issue("server"), tmp_path / "tokens"
    tokens.write_text("secret gold\n")
    settings = {"tls_cert": files["cert"], "tls_key": files["key"], "auth_tokens": str(tokens)}
    async with scheduler(**UNIFORM, **settings, listen=f"127.0.0.1:{proxy.scheduler}"):
        credentials = channel_credentials(authority.ca_file)
        address = f"localhost:{proxy.scheduler}"
        async with AsyncSchedulerClient(address, credentials=credentials, token="secret", timeout=PATIENCE) as client:
            await eventually(lambda: limited(proxy, engine))
            yield client


async def limited(proxy, engine):
    """Whether a request gets a budget, by the tokens of its completion."""
    async with proxy.client() as caller:
        await caller.chat.completions.create(**user())
    return "max_tokens" in engine.requests[-1]


async def test_without_a_field_of_the_engine_max_tokens_holds_budget_and_answer(strict_proxy, authority, tmp_path):
    async with ChatEngine(port=strict_proxy.engine) as engine:
        async with strictly_scheduling(strict_proxy, engine, authority, tmp_path) as client:
            async with strict_proxy.client("team-silver") as caller:
                await caller.chat.completions.create(**user())
                await caller.chat.completions.create(**user(), max_tokens=40)
            await balanced(client)
            known = (await client.status(recent=1)).recent[0]
    assert [body["max_tokens"] for body in engine.requests[-2:]] == [16 + 32, 40]
    assert not any(FIELD in body for body in engine.requests)
    assert known.tenant == "gold"  # the token's


async def test_a_request_that_litellm_refuses_returns_the_budget(strict_proxy, authority, tmp_path):
    async with ChatEngine(port=strict_proxy.engine) as engine:
        async with strictly_scheduling(strict_proxy, engine, authority, tmp_path) as client:
            before = await used(client)
            async with strict_proxy.client() as caller:
                with pytest.raises(openai.BadRequestError):
                    await caller.chat.completions.create(**{**user(), "model": "unknown"})
            await eventually(lambda: ended(client, "ProxyModelNotFoundError", 1))
            assert await used(client) == before


async def test_a_client_whose_leaving_litellm_sees_at_once_returns_the_budget(strict_proxy, authority, tmp_path):
    async with ChatEngine(port=strict_proxy.engine) as engine:
        async with strictly_scheduling(strict_proxy, engine, authority, tmp_path) as client:
            before = await used(client)
            engine.gate = asyncio.Event()
            caller = strict_proxy.client()
            count = len(engine.requests)
            leaving = asyncio.ensure_future(caller.chat.completions.create(**user()))
            await eventually(lambda: len(engine.requests) > count)
            leaving.cancel()
            await asyncio.wait([leaving])
            await caller.close()
            assert await used(client) == before


IN_LITELLM = """
import asyncio
import json
from types import SimpleNamespace

from predictive_scheduling.litellm import BudgetCallback, LiteLlmSettings

asked = []


async def fails(body, tenant):
    asked.append(tenant)
    raise RuntimeError("a fault")


def hooked(call_type="acompletion", key=None, **fields):
    data = {"model": "m", "messages": [{"role": "user", "content": "q"}], "metadata": {"a": 1}, **fields}
    before = dict(data)
    callback._granting.grant = fails
    assert asyncio.run(callback.async_pre_call_hook(key, None, data, call_type)) is None
    assert data == before


callback = BudgetCallback(LiteLlmSettings(scheduler="localhost:1"))
hooked(key=SimpleNamespace(team_id="gold"))
hooked(key=SimpleNamespace(team_id=None))
assert asked == ["gold", ""]
hooked("aembedding")
hooked(metadata=None)
assert len(asked) == 2

callback = BudgetCallback(LiteLlmSettings(scheduler="localhost:1", tenant_header="X-Team"))
hooked(key=SimpleNamespace(team_id="gold"), proxy_server_request={"headers": {"x-team": "silver"}})
hooked(key=SimpleNamespace(team_id="gold"))
assert asked[2:] == ["silver", ""]
"""


async def test_a_fault_of_ours_leaves_a_request_as_it_is_and_tenants_come_from_where_they_should(litellm):
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT), "PREDICTIVE_SCHEDULING_SCHEDULER": "localhost:1"}
    command = [litellm / "bin/python", "-c", IN_LITELLM]
    done = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeError: a fault") == 4
