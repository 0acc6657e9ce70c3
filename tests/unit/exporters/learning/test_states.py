"""States of prompts that measuring brings, and questions that bring none."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest

from exporters.learning.idle import IdleAccount
from exporters.learning.measuring import Counting, Measuring, Unused
from exporters.learning.samples import Example, Sample
from exporters.learning.states import PromptState, States, joined
from exporters.measure.collect import Plan
from exporters.measure.judging import judge_of
from predictive_scheduling.budget_points import evenly_spaced
from scheduler_service.domain import Sampling
from scheduler_service.generation.backends.http import HttpServer
from scheduler_service.generation.backends.openai import DIALECTS, OpenAiBackend
from scheduler_service.generation.engine_reports import EngineReports
from scheduler_service.generation.templates import TEMPLATES
from tests.builders.collecting import thinks
from tests.builders.learning import state
from tests.standins.connector import ConnectorStandIn
from tests.standins.openai import OpenAiStandIn

PLAN = Plan(TEMPLATES["demo"], evenly_spaced(4, 16), samples=2, answer_tokens=4, sampling=Sampling())
EXAMPLES = [Example(at, str(at), Sample(f"secret {at}", "t")) for at in range(6)]


def numbers(prompt):
    """A state that tells which question it is of, with a number that no float16 holds."""
    return [float(prompt.split("secret ")[1].split()[0]), 1e6, -1e6]


@asynccontextmanager
async def measuring(connector, listen, layer=3, **fields):
    """Measures on an engine with our connector, and asks for states; yields it and the engine."""
    reports = EngineReports(listen)
    async with OpenAiStandIn(thinks(30), connector=connector) as server:
        backend = Counting(OpenAiBackend(HttpServer(server.url), DIALECTS["vllm"], model="m"), **fields)
        await backend.start()
        await reports.start()
        judge = judge_of("agreement:exact", lambda _: lambda expected, answer: answer == expected)
        try:
            states = States(reports, layer)
            yield Measuring(backend, PLAN, judge, Unused(8), IdleAccount(1.0), states, tick=0.01), server
        finally:
            await reports.close()
            await backend.close()


async def states_of(measure):
    found = {}
    await measure(EXAMPLES, lambda key, measured, state=None: found.__setitem__(key, (measured, state)))
    return found


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_each_question_s_own_state_comes_with_its_curve_and_costs_no_generation(kind, tmp_path):
    listen = f"unix:{tmp_path}/r.sock" if kind == "unix" else "tcp://127.0.0.1:0"
    async with measuring(ConnectorStandIn(numbers), listen) as (measure, server):
        found = await states_of(measure)
        with_states = len(server.requests)
        measure.states = None
        await states_of(measure)
    assert {key: state.values[0] for key, (_, state) in found.items()} == {one.key: int(one.key) for one in EXAMPLES}
    assert all(state.origin == (3, 3) and np.isfinite(state.values).all() for _, state in found.values())
    assert all(measured.accuracy == [0, 1, 1, 1] for measured, _ in found.values())
    assert len(server.requests) == 2 * with_states
    asking = [body for body in server.requests if "kv_transfer_params" in body]
    prompts = [TEMPLATES["demo"].render(one.sample.prompt) for one in EXAMPLES]
    assert sorted(body["prompt"] for body in asking) == sorted(prompts)  # once a question, of the prompt alone


@pytest.mark.parametrize(
    ("connector", "layer", "said"),
    [
        (ConnectorStandIn(numbers), 5, "layer 5 is not kept"),
        (ConnectorStandIn(numbers, mode="never"), 3, "does it allow this address"),
        (ConnectorStandIn(numbers, mode="gone"), 3, "does it allow this address"),
    ],
)
async def test_without_a_state_a_question_is_measured_all_the_same(
    connector, layer, said, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("exporters.learning.states._SECONDS", 0.01)
    async with measuring(connector, f"unix:{tmp_path}/r.sock", layer) as (measure, _):
        found = await states_of(measure)
    assert [state for _, state in found.values()] == [None] * len(EXAMPLES)
    warnings = [record for record in caplog.records if record.name == "exporters.learning.states"]
    assert len(warnings) == 1
    assert said in warnings[0].getMessage()
    assert "secret" not in caplog.text


@pytest.mark.parametrize("priority", [0, 2**31 - 1])
async def test_every_call_has_the_priority_that_the_loop_is_given(priority, tmp_path):
    async with measuring(ConnectorStandIn(numbers), f"unix:{tmp_path}/r.sock", priority=priority) as (measure, server):
        await states_of(measure)
    assert {body.get("priority", 0) for body in server.requests} == {priority}
    assert all("priority" in body for body in server.requests) is bool(priority)


async def test_given_up_a_question_is_not_waited_for(tmp_path):
    """Cancelled while the state is waited for, as when others come."""
    async with measuring(ConnectorStandIn(numbers, mode="never"), f"unix:{tmp_path}/r.sock") as (measure, _):
        waiting = asyncio.create_task(measure.states.came(measure.states.expect()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


def test_states_of_another_layer_or_size_are_left_out():
    states = [state([1, 2]), None, state([3, 4], layer=4), state([5]), state([6, 7])]
    found, known = joined(states, (3, 2))
    assert known.tolist() == [True, False, False, False, True]
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 2], [0, 0], [0, 0], [0, 0], [6, 7]]
    assert joined([], (3, 2))[0].shape == (0, 2)
    assert PromptState(3, np.zeros(2, np.float16)).origin == (3, 2)
