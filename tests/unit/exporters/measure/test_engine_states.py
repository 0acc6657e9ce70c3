"""Hidden states are read from a running engine: each question's own, in its place, or the reason for none."""

from contextlib import asynccontextmanager

import numpy as np
import pytest

from exporters.measure.engine_states import read_states
from exporters.measure.questions import Question
from scheduler_service.domain import BackendUnavailableError
from scheduler_service.generation.backends.http import HttpServer
from scheduler_service.generation.backends.openai import OpenAiBackend
from scheduler_service.generation.engine_reports import EngineReports
from scheduler_service.generation.templates import PromptTemplate
from tests.standins.connector import ConnectorStandIn
from tests.standins.openai import OpenAiStandIn

TEMPLATE = PromptTemplate("t", "Q {prompt} A", "</t>", "</t>")
QUESTIONS = [Question(f"q{n}", f"number {n}", "x") for n in range(20)]


def state(prompt):
    return [float(prompt.split()[2]), 0.5]


@asynccontextmanager
async def engine(connector, listen, **options):
    """An engine with our connector, the backend that asks it, and what listens for its states."""
    reports = EngineReports(listen)
    async with OpenAiStandIn(connector=connector, **options) as server:
        backend = OpenAiBackend(HttpServer(server.url), model="m")
        await backend.start()
        await reports.start()
        try:
            yield backend, reports, server
        finally:
            await reports.close()
            await backend.close()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_each_question_gets_its_own_state_in_its_place(kind, tmp_path):
    listen = f"unix:{tmp_path}/r.sock" if kind == "unix" else "tcp://127.0.0.1:0"
    read = []
    async with engine(ConnectorStandIn(state, layers=(3, 8)), listen) as (backend, reports, server):
        states = await read_states(
            backend, reports, TEMPLATE, QUESTIONS, [8, 3], concurrency=5, on_read=lambda: read.append(1)
        )
    assert states.dtype == np.float16
    assert states.shape == (2, 20, 2)
    assert states[0, :, 0].tolist() == states[1, :, 0].tolist() == list(range(20))
    assert len(read) == 20
    assert {body["max_tokens"] for body in server.requests} == {1}
    assert sorted(body["prompt"] for body in server.requests) == sorted(f"Q {q.question} A" for q in QUESTIONS)


async def test_a_layer_that_the_engine_does_not_keep_is_said(tmp_path):
    async with engine(ConnectorStandIn(state), f"unix:{tmp_path}/r.sock") as (backend, reports, _):
        with pytest.raises(BackendUnavailableError, match="layer 5 is not kept"):
            await read_states(backend, reports, TEMPLATE, QUESTIONS, [5])


@pytest.mark.parametrize("mode", ["never", "gone"])
async def test_an_engine_that_sends_nothing_is_told_with_the_address_that_it_may_not_allow(mode, tmp_path, monkeypatch):
    monkeypatch.setattr("exporters.measure.engine_states._STATE_SECONDS", 0.05)
    async with engine(ConnectorStandIn(state, mode=mode), f"unix:{tmp_path}/r.sock") as (backend, reports, _):
        with pytest.raises(BackendUnavailableError, match=rf"no hidden state to unix:{tmp_path}/r.sock"):
            await read_states(backend, reports, TEMPLATE, QUESTIONS, [3])


async def test_what_the_engine_answers_instead_is_raised(tmp_path):
    broken = {"error": {"message": "broken", "code": 500}}
    async with engine(ConnectorStandIn(state), f"unix:{tmp_path}/r.sock", **broken) as (backend, reports, _):
        with pytest.raises(BackendUnavailableError, match="HTTP 500"):
            await read_states(backend, reports, TEMPLATE, QUESTIONS, [3])
