"""The loop on a real vLLM: states that come with what is measured, and generations behind everybody else's."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from exporters.cli.learn import LEAST_PRIORITY
from exporters.learning.idle import IdleAccount
from exporters.learning.ledger import Ledger
from exporters.learning.loop import Learner, Rules
from exporters.learning.measuring import Counting, Measuring, Unused
from exporters.learning.pool import Pool
from exporters.learning.samples import FileSource
from exporters.learning.states import States
from exporters.learning.store import FolderStore
from exporters.measure.checkers import checker
from exporters.measure.collect import Plan
from exporters.measure.engine_states import read_states
from exporters.measure.judging import judge_of
from exporters.measure.questions import Question
from predictive_scheduling_cli.demo.engines import LAYER, MODEL
from scheduler_service.domain import Sampling
from scheduler_service.generation.backends import make_backend
from scheduler_service.generation.backends.base import BackendConfiguration
from scheduler_service.generation.engine_reports import EngineReports
from scheduler_service.generation.forcing import Call
from scheduler_service.generation.templates import TEMPLATES
from tests.builders.learning import KEY
from tests.waiting import eventually

POINTS = (4, 8, 16)
QUESTIONS = [f"What is {at} + {at % 7}?" for at in range(24)]


async def opened(server):
    backend = make_backend(BackendConfiguration("vllm", urls=(server.url,)))
    await backend.start()
    await backend.limits()  # which also asks the server what its model is called
    return backend


async def test_a_pass_brings_the_state_of_each_question_that_it_measures(vllm, sockets, tmp_path):
    """This vLLM serves first come, first served: it takes the priority, and makes nothing of it."""
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in QUESTIONS))
    reports, backend = EngineReports(f"unix:{sockets}/learn.sock"), await opened(vllm)
    await reports.start()
    try:
        plan = Plan(TEMPLATES["demo"], POINTS, samples=2, answer_tokens=4, sampling=Sampling(temperature=0.6))
        server, judge = Counting(backend, LEAST_PRIORITY), judge_of("agreement:exact", checker)
        loop = Learner(
            FileSource(tmp_path / "prompts.jsonl"),
            Measuring(server, plan, judge, Unused(8), IdleAccount(1.0), States(reports, LAYER)),
            Pool(tmp_path / "samples", KEY), Ledger(tmp_path / "ledger.jsonl"), FolderStore(tmp_path / "models"),
            tmp_path / "state", Rules(8, POINTS, least=16, look=8, least_text=16),
        )  # fmt: skip
        found = await loop.one_pass()
        questions = [Question(one, one, None) for one in QUESTIONS]
        (served,) = await read_states(backend, reports, TEMPLATES["demo"], questions, [LAYER])
    finally:
        await reports.close()
        await backend.close()
    assert (found.taken, found.measured) == (len(QUESTIONS),) * 2
    kept = Pool(tmp_path / "samples", KEY).all()
    states = np.stack([example.state.values for example in kept]).astype(np.float64)
    assert {example.state.origin for example in kept} == {(LAYER, states.shape[1])}
    served = served.astype(np.float64)
    alike = (states * served).sum(-1) / np.linalg.norm(states, axis=-1) / np.linalg.norm(served, axis=-1)
    assert (alike > 0.999).all()  # what serving would bring
    trained = next(row for row in loop.ledger.lines if row["event"] == "trained")
    assert set(trained["held_out_gain"]) == {"mean_curve", "text_curve", "hidden_state_mlp"}


@pytest.mark.parametrize(("priority", "first"), [(0, True), (LEAST_PRIORITY, False)])
async def test_whoever_comes_later_goes_before_the_loop_s_calls(replica, session, priority, first):
    """The server runs 32 calls at once; ours take all of them, and more of ours wait. They end one after the other."""
    done = []

    async def ours(tokens):
        body = {
            "model": MODEL, "prompt": f"Question: {tokens}", "max_tokens": tokens, "ignore_eos": True,
            "priority": LEAST_PRIORITY,
        }  # fmt: skip
        async with session.post(f"{replica.url}/v1/completions", json=body) as reply:
            assert reply.status == 200
        done.append(tokens)

    backend = await opened(replica)
    running = [asyncio.create_task(ours(100 + 4 * at)) for at in range(32)]
    try:
        await eventually(lambda: runs(replica, 32))
        running += [asyncio.create_task(ours(200)) for _ in range(12)]
        await eventually(lambda: waits(replica, 12))
        assert not done
        async for _ in backend.stream(Call("Question: 1 + 1\n", 1, priority=priority), Sampling(), {}):
            pass
        assert (len(done) < 6) is first
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await backend.close()
    await eventually(lambda: runs(replica, 0))


async def runs(server, count):
    return await server.metric("vllm:num_requests_running") == count


async def waits(server, count):
    return await server.metric("vllm:num_requests_waiting") == count
