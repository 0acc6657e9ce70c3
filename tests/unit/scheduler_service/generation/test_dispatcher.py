"""Generations on the backend: so many at once, each call in a span that says what it brought."""

import asyncio

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from predictive_scheduling import semconv
from scheduler_service.domain import BackendUnavailableError, Sampling
from scheduler_service.generation.dispatcher import Counted, Dispatcher
from scheduler_service.generation.forcing import BudgetForcing
from scheduler_service.generation.templates import TEMPLATES
from tests.standins.backend import ScriptedBackend
from tests.waiting import eventually


def script(prompt):
    return [" 7", "\n\n"] if prompt.endswith("Final answer:") else ["t"] * 30


class Dispatching:
    """A dispatcher on a scripted backend, and the spans of its calls."""

    def __init__(self, slots=1, **options):
        self.memory, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.backend = ScriptedBackend(script, **options)
        self.dispatcher = Dispatcher(self.backend, "m", slots, provider.get_tracer("t"))

    async def generate(self, prompt, counted=None, priority=0):
        forcing = BudgetForcing(TEMPLATES["demo"], prompt, 5, 4)
        texts = self.dispatcher.run(forcing, Sampling(), counted or Counted(), priority)
        return [text.text async for text in texts]


async def test_each_call_has_a_span_that_says_what_was_asked_and_brought():
    one, counted = Dispatching(), Counted()
    await one.generate("q", counted)
    spans = one.memory.get_finished_spans()
    assert [span.attributes[semconv.GEN_AI_MAX_TOKENS] for span in spans] == [5, 4]
    # The second call's stop is a token, too.
    assert [span.attributes[semconv.GEN_AI_OUTPUT_TOKENS] for span in spans] == [5, 2]
    assert {span.name for span in spans} == {"text_completion m"}
    assert counted.prompt_tokens == spans[0].attributes[semconv.GEN_AI_INPUT_TOKENS] == 2  # of the first call


async def test_a_call_that_fails_ends_its_span_with_the_errors_name():
    one = Dispatching(error=BackendUnavailableError("gone"), error_after=1)
    with pytest.raises(BackendUnavailableError, match="gone"):
        await one.generate("q")
    spans = one.memory.get_finished_spans()
    assert len(spans) == 4  # it goes on three times from where it broke off
    assert {span.attributes[semconv.ERROR_TYPE] for span in spans} == {"BackendUnavailableError"}
    assert {span.attributes[semconv.GEN_AI_OUTPUT_TOKENS] for span in spans} == {1}


async def test_no_more_generations_run_than_there_are_slots_and_priority_goes_first():
    gate = asyncio.Event()
    one = Dispatching(slots=2, gate=gate)
    names, tasks = ("a", "b", "idle", "urgent"), []
    for name, priority in zip(names, (0, 0, -1, 5), strict=True):
        tasks.append(asyncio.create_task(one.generate(name, priority=priority)))
        await asyncio.sleep(0)
    await eventually(lambda: one.backend.open == 2)
    assert [call.turn.user for call in one.backend.calls] == ["a", "b"]
    gate.set()
    await asyncio.gather(*tasks)
    began = list(dict.fromkeys(call.turn.user for call in one.backend.calls))
    assert began == ["a", "b", "urgent", "idle"]


async def test_a_generation_that_is_closed_frees_its_slot_and_ends_its_span():
    one = Dispatching()
    texts = one.dispatcher.run(BudgetForcing(TEMPLATES["demo"], "q", 5, 4), Sampling(), Counted())
    await anext(texts)
    assert one.backend.open == 1
    await texts.aclose()
    assert one.backend.open == 0
    assert len(one.memory.get_finished_spans()) == 1
    async with asyncio.timeout(60):
        assert await one.generate("next")
