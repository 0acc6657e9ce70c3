"""The connector in a real vLLM: the states that it sends, and what it makes of what anybody asks."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from contextlib import suppress

import numpy as np
import pytest

from exporters.measure.engine_states import read_states
from exporters.measure.features import StateReader, read_features
from exporters.measure.questions import Question
from predictive_scheduling_cli.demo.engines import LAYER, MODEL
from scheduler_service.domain import BackendUnavailableError
from scheduler_service.generation.backends import make_backend
from scheduler_service.generation.backends.base import BackendConfiguration
from scheduler_service.generation.engine_reports import EngineReports
from scheduler_service.generation.report_frames import Generated, State, lengths, parse_frame
from scheduler_service.generation.templates import TEMPLATES
from tests.waiting import eventually

# Short, longer than one block of the cache (128 tokens on CPUs), and longer than one batch (256), so in chunks.
QUESTIONS = [
    Question("short", "What is 3 + 4 + 5 + 6?", "", ""),
    Question("blocks", "What is 3" + " + 1" * 90 + "?", "", ""),
    Question("chunks", "What is 3" + " + 7" * 250 + "?", "", ""),
]

DATAGRAMS = (socket.AF_UNIX, socket.SOCK_DGRAM)


@pytest.fixture
async def backend(vllm):
    opened = make_backend(BackendConfiguration("vllm", urls=(vllm.url,)))
    await opened.start()
    await opened.limits()
    yield opened
    await opened.close()


async def states(backend, listen, questions=QUESTIONS, layers=(LAYER,)):
    reports = EngineReports(listen)
    await reports.start()
    try:
        return await read_states(backend, reports, TEMPLATES["demo"], questions, layers)
    finally:
        await reports.close()


def cosines(first, second):
    first, second = first.astype(np.float64), second.astype(np.float64)
    return (first * second).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)


async def test_states_in_serving_are_those_that_the_weights_give(backend, sockets, environment):
    served = await states(backend, f"unix:{sockets}/parity.sock")
    reader = StateReader(environment / "model")
    layers = [LAYER - 1, LAYER, LAYER + 1]
    below, same, above = await asyncio.to_thread(read_features, reader, TEMPLATES["demo"], QUESTIONS, layers)
    assert (cosines(served[0], same) > 0.999).all()
    assert (cosines(served[0], below) < 0.99).all()  # of this layer, and no other
    assert (cosines(served[0], above) < 0.99).all()


async def test_states_are_the_same_behind_a_cached_prefix_and_over_tcp(vllm, backend, sockets):
    first = await states(backend, f"unix:{sockets}/again.sock")
    before = await vllm.metric("vllm:prefix_cache_hits_total")
    again = await states(backend, "tcp://127.0.0.1:0")
    assert await vllm.metric("vllm:prefix_cache_hits_total") > before
    assert (cosines(first[0], again[0]) > 0.9999).all()


async def test_a_layer_that_is_not_kept_is_refused_with_its_reason(backend, sockets):
    with pytest.raises(BackendUnavailableError, match=f"layer 3 is not kept; kept: {LAYER}"):
        await states(backend, f"unix:{sockets}/layer.sock", QUESTIONS[:1], (3,))


async def complete(session, vllm, asked, tokens=4, prompt="Question: What is 1 + 2?\n", **more):
    body = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0, **more}
    async with session.post(f"{vllm.url}/v1/completions", json={**body, "kv_transfer_params": asked}) as reply:
        return reply.status


@pytest.mark.parametrize(
    "asked",
    [
        {"to": "unix:/var/run/docker.sock", "id": "a" * 20},
        {"to": "unix:{sockets}/../../etc/x.sock", "id": "a" * 20},
        {"to": "tcp://10.1.2.3:80", "id": "a" * 20},
        {"to": "tcp://localhost:80", "id": "a" * 20},
        {"to": "unix:{sockets}/nobody-listens.sock", "id": "a" * 20},
        {"to": 7, "id": []},
        {"to": "unix:{sockets}/x.sock", "id": "../../../etc/passwd", "layers": "16"},
        {"to": "unix:{sockets}/x.sock", "id": "a" * 20, "layers": [10**15, True]},
        [1, 2],
        "states",
        {},
    ],
)
async def test_no_request_fails_for_what_it_asks(vllm, session, sockets, asked):
    text = json.dumps({"prompt_state": asked}).replace("{sockets}", str(sockets))
    assert await complete(session, vllm, json.loads(text)) == 200
    assert await vllm.metric("vllm:prompt_states_total", result="failed") == 0


async def test_a_file_holds_the_state_and_the_end(vllm, session, sockets):
    name = uuid.uuid4().hex
    assert await complete(session, vllm, {"prompt_state": {"to": f"file:{sockets}", "id": name}}, tokens=5) == 200
    path = sockets / f"{name}.frames"
    data = await eventually(lambda: path.exists() and len(frames(path.read_bytes())) == 2 and path.read_bytes())
    state, end = frames(data)
    assert isinstance(state, State)
    assert state.layers == (LAYER,)
    assert end == Generated(name, 5)


async def test_a_receiver_that_is_busy_for_a_second_still_gets_what_was_generated(vllm, session, sockets):
    path, name = str(sockets / "busy.sock"), uuid.uuid4().hex
    with socket.socket(*DATAGRAMS) as busy, socket.socket(*DATAGRAMS) as other:
        busy.bind(path)
        busy.setblocking(False)
        other.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                other.sendto(b"filled", path)
        asked = {"prompt_state": {"to": f"unix:{path}", "id": name, "layers": []}}
        assert await complete(session, vllm, asked, tokens=5) == 200
        await asyncio.sleep(1.0)

        async def read():
            with suppress(BlockingIOError):
                while (data := busy.recv(65536)) == b"filled":
                    pass
                return parse_frame(data)

        assert await eventually(read) == Generated(name, 5)


def frames(data):
    found = []
    while data:
        size = 12 + sum(lengths(data))
        if len(data) < size:
            return []
        found.append(parse_frame(data[:size]))
        data = data[size:]
    return found


async def test_requests_that_are_given_up_leave_nothing_behind(vllm, backend, sockets, session):
    reports = EngineReports(f"unix:{sockets}/given-up.sock")
    await reports.start()
    try:
        ended = []
        expected = [reports.expect((LAYER,)) for _ in range(24)]
        for one in expected:
            one.generated = ended.append

        async def ask(one, at):
            asked = {"prompt_state": {"to": one.request.to, "id": one.request.id, "layers": [LAYER]}}
            prompt = "Question: What is 3" + " + 8" * (10 * at) + "?\n"
            # Some are given up before they have begun, some while their prompt is computed, some later.
            async with asyncio.timeout(0.02 * at):
                await complete(session, vllm, asked, tokens=200, prompt=prompt, ignore_eos=True)

        results = await asyncio.gather(*(ask(one, at) for at, one in enumerate(expected)), return_exceptions=True)
        assert all(isinstance(result, TimeoutError) for result in results)
        served = await states(backend, f"unix:{sockets}/after.sock")  # it works on
        assert np.isfinite(served).all()
        assert await vllm.metric("vllm:prompt_states_total", result="failed") == 0
    finally:
        await reports.close()
