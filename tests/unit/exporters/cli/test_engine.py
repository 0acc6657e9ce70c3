"""``features --backend vllm``: the training states come from the engine that serves, over the same way."""

import asyncio
import json
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from typer.testing import CliRunner

from exporters.measure.hidden_states import read_hidden_states
from predictive_scheduling_cli.main import app
from tests.standins.connector import ConnectorStandIn
from tests.standins.openai import OpenAiStandIn


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@contextmanager
def engine(connector=None):
    """Run an engine in a thread of its own, since the command runs its own loop; yields it."""
    started, found = threading.Event(), []

    async def serve():
        ended = asyncio.Event()
        async with OpenAiStandIn(connector=connector or ConnectorStandIn(mode="gone")) as server:
            found.extend([server, asyncio.get_running_loop(), ended])
            started.set()
            await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(60)
    server, loop, ended = found
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(60)


@pytest.fixture
def questions(tmp_path):
    """Four questions."""
    path = tmp_path / "q.jsonl"
    lines = [{"question_id": f"q{n}", "question": f"number {n}", "expected": "x"} for n in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_states_of_the_layers_are_written_as_those_of_a_model_are(questions, tmp_path):
    numbers = ConnectorStandIn(
        lambda prompt: [float(next(word for word in prompt.split() if word.isdigit())), 0.5, -1.0], layers=(3, 8)
    )
    with engine(numbers) as server:
        result = run(
            "features", "--questions", questions, "--out", tmp_path / "out", "--layers", "3,8", "--template", "demo",
            "--backend", "vllm", "--backend-url", server.url, "--reports-listen", f"unix:{tmp_path}/r.sock",
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "4 questions, 2 layers" in result.output
    for name in ("layer-03.npz", "layer-08.npz"):
        states = read_hidden_states(tmp_path / "out" / name, [f"q{n}" for n in range(4)])
        assert np.array_equal(states, [[n, 0.5, -1.0] for n in range(4)])
    assert not (tmp_path / "r.sock").exists()
    assert {body["model"] for body in server.requests} == {"m"}


def test_an_engine_without_the_layer_is_an_error_and_nothing_is_written(questions, tmp_path):
    with engine(ConnectorStandIn(lambda prompt: [1.0])) as server:
        result = run(
            "features", "--questions", questions, "--out", tmp_path / "out", "--layers", "9", "--template", "demo",
            "--backend", "vllm", "--backend-url", server.url, "--reports-listen", f"unix:{tmp_path}/r.sock",
        )  # fmt: skip
    assert result.exit_code != 0
    assert "layer 9 is not kept" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--model, --backend: give one of them"),
        (("--model", "m.gguf", "--backend", "vllm"), "--model, --backend: give one of them"),
        (("--backend", "vllm", "--layers", "3"), "--reports-listen"),
        (("--backend", "vllm", "--reports-listen", "unix:/srv/r.sock"), "--layers"),
        (("--backend", "vllm", "--layers", "3", "--reports-listen", "unix:/srv/r.sock"), "backend_url"),
        (("--backend", "vllm", "--layers", "8,x", "--reports-listen", "unix:/srv/r.sock"), "--layers: '8,x'"),
        (("--backend", "vllm", "--layers", "-1", "--reports-listen", "unix:/srv/r.sock"), "--layers: '-1'"),
    ],
)
def test_what_cannot_be_is_said(words, said, questions, tmp_path):
    result = run("features", "--questions", questions, "--out", tmp_path / "out", *words)
    assert result.exit_code != 0
    assert said in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


def test_where_nobody_can_listen_is_an_error(questions, tmp_path):
    with engine() as server:
        result = run(
            "features", "--questions", questions, "--out", tmp_path / "out", "--layers", "3", "--template", "demo",
            "--backend", "vllm", "--backend-url", server.url, "--reports-listen", f"unix:{tmp_path}/no/r.sock",
        )  # fmt: skip
    assert result.exit_code != 0
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
