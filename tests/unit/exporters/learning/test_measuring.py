"""Measuring beside traffic: within what is allowed, given up when others come, and nothing lost by it."""

import asyncio

import pytest

from exporters.learning.idle import IdleAccount, Load
from exporters.learning.measuring import Counting, Measuring, Unused
from exporters.learning.samples import Example, Sample
from exporters.measure.collect import Plan
from exporters.measure.judging import judge_of
from predictive_scheduling.budget_points import evenly_spaced
from scheduler_service.domain import BackendUnavailableError, PreconditionError, Sampling
from scheduler_service.generation.backends.base import EndpointBusyError
from scheduler_service.generation.templates import TEMPLATES
from tests.builders.collecting import thinks
from tests.standins.backend import ScriptedBackend
from tests.waiting import eventually

PLAN = Plan(TEMPLATES["demo"], evenly_spaced(4, 16), samples=2, answer_tokens=4, sampling=Sampling())
EXAMPLES = [Example(at, str(at), Sample(f"secret {at}", "t")) for at in range(5)]


class Loads:
    """A load that a test sets."""

    def __init__(self, in_flight=0):
        self.in_flight = in_flight

    async def load(self):
        return Load(self.in_flight, 8)


def measuring(backend, loads=None, account=None, **fields):
    return Measuring(
        Counting(backend), PLAN, judge_of("agreement:exact", _checker),
        loads or Unused(8), account or IdleAccount(1.0), tick=0.01, **fields,
    )  # fmt: skip


def _checker(_name):
    return lambda expected, answer: answer == expected


async def measure(found, examples=EXAMPLES):
    got = {}
    tokens = await found(examples, lambda key, measured, state: got.__setitem__(key, measured))
    return got, tokens


async def test_every_example_is_measured_and_every_token_counted():
    found = measuring(ScriptedBackend(thinks(30)))
    got, tokens = await measure(found)
    assert set(got) == {example.key for example in EXAMPLES}
    assert got["0"].accuracy == [0, 1, 1, 1]  # cut before its 20th token it answers otherwise than at its end
    assert tokens == sum(one.generated_tokens for one in got.values()) > 0
    assert await found.backend.limits() == await found.backend._backend.limits()


async def test_when_others_come_what_runs_is_given_up_and_measured_later():
    loads, gate = Loads(), asyncio.Event()
    backend = ScriptedBackend(thinks(30), gate=gate, gate_after=5)
    found = measuring(backend, loads)
    running = asyncio.create_task(measure(found))
    await eventually(lambda: backend.open == 5)
    loads.in_flight = 8
    await eventually(lambda: not backend.open)
    assert found.given_up == 5
    gate.set()
    loads.in_flight = 0
    got, tokens = await running
    assert len(got) == 5
    assert tokens > sum(one.generated_tokens for one in got.values())  # what was given up counts as spent


async def test_while_others_are_busy_nothing_is_started():
    backend = ScriptedBackend(thinks(30))
    got, tokens = await measure(measuring(backend, Loads(8), most_seconds=0.05))
    assert (got, tokens, backend.calls) == ({}, 0, [])


async def test_a_server_that_goes_away_ends_the_pass_and_is_no_fault(caplog):
    class Away(ScriptedBackend):
        async def limits(self):
            raise self.error

    backend = Away(thinks(30), error=BackendUnavailableError("away"))
    got, _ = await measure(measuring(backend, Unused(1)))
    assert (got, len(backend.calls)) == ({}, 1)
    assert "the rest is measured later" in caplog.text
    assert "secret" not in caplog.text


async def test_a_server_without_room_ends_the_pass(caplog):
    backend = ScriptedBackend(thinks(30), error=EndpointBusyError("busy", 1.0))
    got, _ = await measure(measuring(backend, Unused(1)))
    assert (got, len(backend.calls)) == ({}, 1)
    assert "the rest is measured later" in caplog.text


async def test_a_question_that_the_server_fails_at_does_not_hold_up_the_others(caplog):
    """It may do so each time: the oldest are first, and would end every pass."""
    thinking = thinks(30)

    def script(prompt):
        if any(f"secret {at}" in prompt for at in range(3)):
            raise BackendUnavailableError("the LLM server answered HTTP 500")
        return thinking(prompt)

    got, _ = await measure(measuring(ScriptedBackend(script), Unused(1)))
    assert set(got) == {"3", "4"}
    assert caplog.text.count("a question is measured later") == 1
    assert "secret" not in caplog.text


async def test_a_prompt_that_the_server_refuses_is_not_asked_again(caplog):
    backend = ScriptedBackend(thinks(30), error=PreconditionError("prompt", "secret is too long"))
    found = measuring(backend)
    assert (await measure(found))[0] == {}
    calls = len(backend.calls)
    assert (await measure(found))[0] == {}
    assert len(backend.calls) == calls
    assert "secret" not in caplog.text


async def test_cancelled_it_leaves_nothing_running():
    backend = ScriptedBackend(thinks(30), gate=asyncio.Event(), gate_after=1)
    running = asyncio.create_task(measure(measuring(backend)))
    await eventually(lambda: backend.open)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert backend.open == 0


async def test_the_backend_is_started_and_closed_through_the_counting_one():
    told = []

    class Told(ScriptedBackend):
        async def start(self):
            told.append("start")

        async def close(self):
            told.append("close")

    counting = Counting(Told(thinks(1)))
    await counting.start()
    await counting.close()
    assert told == ["start", "close"]
