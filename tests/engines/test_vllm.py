"""Our vLLM backend against a real vLLM."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from contextlib import aclosing, suppress
from pathlib import Path
from statistics import median

import grpc
import pytest

from exporters.demo.tasks import split_tasks
from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling_cli.demo.engines import MODEL
from scheduler_service.domain import BackendUnavailableError, PreconditionError, Sampling
from scheduler_service.generation.backends import make_backend
from scheduler_service.generation.backends.base import BackendConfiguration, Ended, Piece
from scheduler_service.generation.forcing import Call, CallEnd, Turn
from tests.integration.running import balanced, predictor, refused, scheduler
from tests.waiting import eventually

QUESTION = "What is 3 + 4 + 5 + 6?"
GREEDY = pb.Sampling(temperature=0.0, seed=1)
TASKS = [task.question for task in split_tasks().test]


@pytest.fixture
async def backend(vllm):
    opened = make_backend(BackendConfiguration("vllm", urls=(vllm.url,)))
    await opened.start()
    await opened.limits()  # which also asks the server what its model is called
    yield opened
    await opened.close()


def serving(*servers, **settings):
    wanted = {
        "backend": "vllm", "backend_url": ",".join(server.url for server in servers), "template": "demo",
        "policy": "uniform", "tokens_per_query": 64, "answer_tokens": 12, "window_size": 1, "floor_tokens": 0,
    }  # fmt: skip
    return scheduler(**{**wanted, **settings})


async def read(backend, prompt, tokens, *, stop=(), chat=False, temperature=0.0, seed=None):
    call = Call(prompt, tokens, stop, Turn(prompt, "", "Final answer:") if chat else None)
    pieces = [piece async for piece in backend.stream(call, Sampling(temperature=temperature, seed=seed), {})]
    text = "".join(piece.text for piece in pieces if isinstance(piece, Piece))
    return text, sum(piece.tokens for piece in pieces if isinstance(piece, Piece)), pieces[-1]


async def test_text_tokens_and_ends_are_those_that_the_server_says_without_a_stream(vllm, backend, session):
    prompt = f"Question: {QUESTION}\n"
    for tokens, stop in ((7, ()), (60, ("\n\n",)), (3, ("\n",))):
        body = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        async with session.post(f"{vllm.url}/v1/completions", json={**body, "stop": list(stop)}) as reply:
            whole = await reply.json()
        text, counted, end = await read(backend, prompt, tokens, stop=stop)
        choice = whole["choices"][0]
        assert text == choice["text"]
        assert counted <= whole["usage"]["completion_tokens"] <= counted + 2  # a stop text's own tokens bring no text
        assert end == Ended(
            CallEnd.LENGTH if choice["finish_reason"] == "length" else CallEnd.MODEL, whole["usage"]["prompt_tokens"]
        )


async def test_a_stream_s_tokens_are_those_that_the_engine_generated(vllm, backend):
    before = await vllm.generated()
    _, counted, _ = await read(backend, f"Question: {QUESTION}\n", 33)
    assert counted == 33
    assert await vllm.generated() - before == 33


@pytest.mark.parametrize("temperature", [0.0, 1.5])
async def test_a_seed_gives_the_same_text_again(backend, temperature):
    prompt = f"Question: {TASKS[3]}\n"
    texts = {(await read(backend, prompt, 40, temperature=temperature, seed=7))[0] for _ in range(3)}
    others = {(await read(backend, prompt, 40, temperature=temperature, seed=seed))[0] for seed in range(20, 26)}
    assert len(texts) == 1
    assert len(others) > 1 if temperature else others == texts


async def test_the_chat_route_with_parsed_reasoning_is_the_raw_route(replica):
    answers = []
    for chat in (False, True):
        async with serving(replica, backend_chat=chat) as address, AsyncSchedulerClient(address) as client:
            reply = await client.complete(QUESTION, sampling=GREEDY)
            forced = await client.complete(QUESTION, sampling=GREEDY, max_reasoning_tokens=9)
            answers.append((reply.reasoning, reply.answer, forced.usage.reasoning_tokens, forced.usage.finish_reason))
            assert reply.usage.finish_reason == pb.FINISH_REASON_NATURAL
            assert "Final answer" not in reply.reasoning
    (raw_reasoning, raw_answer, *raw_forced), (reasoning, answer, *forced) = answers
    assert answer.strip() == raw_answer.strip() == "18"
    assert reasoning.strip() == raw_reasoning.strip()
    assert forced == raw_forced == [9, pb.FINISH_REASON_FORCED]


# vLLM counts from the start mark on, so that the prompt has to end with it.
STEPS = """[steps]
prompt = "Question: {prompt}\\nSteps:"
think_end = "Final answer:"
answer_suffix = "\\nFinal answer:"
stop = ["\\n\\n"]
"""


@pytest.mark.parametrize("budget", [6, 12, 20])
async def test_a_budget_is_kept_by_the_engine_as_by_us(vllm, budget, tmp_path):
    (tmp_path / "templates.toml").write_text(STEPS)
    used = []
    for by_engine in (False, True):
        settings = {
            "backend_thinking_budget": by_engine, "tokens_per_query": budget,
            "template": "steps", "templates": str(tmp_path / "templates.toml"),
        }  # fmt: skip
        async with serving(vllm, **settings) as address, AsyncSchedulerClient(address) as client:
            reply = await client.complete(QUESTION, sampling=GREEDY)
            used.append((reply.usage.reasoning_tokens, reply.usage.finish_reason, reply.answer.strip() != ""))
    assert used == [(budget, pb.FINISH_REASON_FORCED, True)] * 2


async def test_a_cancelled_call_frees_the_engine(vllm):
    async with serving(vllm, tokens_per_query=900, template="deepseek-r1") as address:
        async with AsyncSchedulerClient(address) as client:
            async with aclosing(client.generate(QUESTION, sampling=pb.Sampling(temperature=1.5))) as events:
                async for event in events:
                    if event.WhichOneof("event") == "text":
                        break
            await eventually(lambda: idle(vllm))
            before = await vllm.generated()
            await asyncio.sleep(0.5)
            assert await vllm.generated() == before
            budget = await balanced(client)
            assert 0 < budget.used_tokens < 900


async def idle(server):
    return not await server.running()


async def test_what_the_server_refuses_is_refused_with_its_reason(vllm, backend):
    limits = await backend.limits()
    assert (limits.model, limits.max_total_tokens) == (MODEL, 1024)
    with pytest.raises(PreconditionError, match="1024"):
        await read(backend, "word " * 2000, 10)
    async with serving(vllm) as address, AsyncSchedulerClient(address) as client:
        error = await refused(client.complete("word " * 2000))
        assert error.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)
        assert "word word" not in error.details()
        await balanced(client)


async def test_a_model_that_the_server_does_not_serve_fails_each_call_and_is_named_in_the_log(vllm, caplog):
    other = make_backend(BackendConfiguration("vllm", urls=(vllm.url,), model="nobody/nothing"))
    await other.start()
    try:
        assert (await other.limits()).model == "nobody/nothing"  # adapters and gateways do not list all they serve
        with pytest.raises(BackendUnavailableError, match="HTTP 404"):
            await read(other, "q", 5)
        assert "nobody/nothing" in caplog.text  # the reason is for operators
    finally:
        await other.close()


async def test_budgets_come_from_the_engine_s_own_states_and_every_token_is_told_of(vllm, sockets, record_property):
    def late():
        return vllm.metric("vllm:prompt_states_total", result="late")

    states = {"reports_listen": f"unix:{sockets}/states.sock", "policy": "price", "predictor_model": "demo-hidden"}
    async with predictor() as predicting:
        settings = {"predictor": predicting, "tokens_per_query": 32, "backend_slots": 16, **states}
        async with serving(vllm, **settings) as address, AsyncSchedulerClient(address, timeout=300.0) as client:
            await eventually(lambda: idle(vllm))
            before, late_before = await vllm.generated(), await late()
            replies = await asyncio.gather(*(client.complete(task, sampling=GREEDY) for task in TASKS[:48]))
            given = [reply.allocation for reply in replies]
            outcomes = Counter(one.prediction_outcome for one in given)
            dropped = await late() - late_before  # where this process is busy for longer than a state is worth
            assert outcomes[pb.PREDICTION_OUTCOME_TIMEOUT] <= dropped
            assert outcomes[pb.PREDICTION_OUTCOME_FRESH] >= 44 - dropped  # the predictor abstains on a few
            known = {pb.PREDICTION_OUTCOME_FRESH, pb.PREDICTION_OUTCOME_ABSTAINED, pb.PREDICTION_OUTCOME_TIMEOUT}
            assert outcomes.keys() <= known
            assert len({one.reasoning_budget_tokens for one in given}) > 3
            assert all(
                reply.usage.reasoning_tokens <= reply.usage.reserved_tokens or reply.usage.reserved_tokens == 0
                for reply in replies
            )
            await balanced(client)

            async def reported():
                records = [await client.find(one.request_id) for one in given]
                known = [record.wasted_tokens for record in records if record.HasField("wasted_tokens")]
                return known if len(known) == len(given) else None

            wasted = await eventually(reported)
            record_property("wasted_tokens_p50", median(wasted))
            used = sum(reply.usage.reasoning_tokens + reply.usage.answer_tokens for reply in replies)

            async def at_least_what_was_read():
                return (counted := await vllm.generated() - before) >= used and counted

            # vLLM's own figure leaves out what a step brought of a request that was given up meanwhile.
            assert await eventually(at_least_what_was_read) <= used + sum(wasted)


async def test_two_replicas_of_which_one_is_killed_under_load_lose_no_call(vllm, replica):
    async with serving(vllm, replica, tokens_per_query=48, backend_slots=16) as address:
        async with AsyncSchedulerClient(address, timeout=300.0) as client:

            async def ask(at):
                await asyncio.sleep(0.05 * at)
                return await client.complete(TASKS[at], sampling=pb.Sampling(temperature=0.0, seed=at))

            asked = [asyncio.create_task(ask(at)) for at in range(40)]
            await eventually(lambda: busy(replica))
            kill(replica.url)
            replies = await asyncio.gather(*asked)
            assert all(reply.answer for reply in replies)
            budget = await balanced(client)
            assert budget.requests == 40
    await eventually(lambda: idle(vllm))


async def busy(server):
    return await server.running() >= 2


def kill(url):
    """Kill the server that listens there, and its workers, at once."""
    port = url.rsplit(":", 1)[1]
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            command = (process / "cmdline").read_text().split("\0")
            if "--port" in command and command[command.index("--port") + 1] == port:
                os.killpg(int(process.name), signal.SIGKILL)
                return
    raise AssertionError(f"nobody listens at {url}")


async def test_a_server_says_how_many_run_and_what_was_generated(vllm, backend):
    before = await backend.signals()
    call = Call(f"Question: {QUESTION}\n", 40, (), None)
    async with aclosing(backend.stream(call, Sampling(temperature=0.0), {})) as pieces:
        await anext(pieces)

        async def running():
            found = await backend.signals()
            return found.running >= 1 and found

        while_it_runs = await eventually(running)
        async for _ in pieces:
            pass
    after = await backend.signals()
    assert before.running == before.waiting == while_it_runs.waiting == 0
    assert after.generated - before.generated == 40
