"""The examples of docs/extending.md: each is added as the page says, and works."""

import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from exporters.measure.curves import Curves, window_points
from exporters.predictors import kinds
from exporters.predictors.checkpoint import load_checkpoint, save_checkpoint
from exporters.predictors.export import export
from exporters.predictors.kinds import Training, module_of
from predictive_scheduling import AsyncPredictorClient, AsyncSchedulerClient
from predictive_scheduling.predictor.v1 import predictor_pb2
from scheduler_service.allocation import POLICIES
from scheduler_service.generation.backends import SERVERS
from tests.integration.running import predictor, scheduler
from tests.standins.listening import Listening
from tests.unit.scheduler_service.allocation import test_problem_laws as laws

PAGE = (Path(__file__).parents[2] / "docs/extending.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


class PlainServer(Listening):
    """What the page's backend speaks to."""

    def application(self):
        async def health(_):
            return web.Response()

        async def about(_):
            return web.json_response({"model": "m", "context": 4096})

        async def go_on(request):
            wanted = (await request.json())["max_tokens"]
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            texts = ["I think", ".", "\nFinal answer:", " 42", "\n\n"][:wanted]
            for event in (*({"text": text} for text in texts), {"done": "stop"}):
                await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            return response

        app = web.Application()
        app.add_routes([web.get("/health", health), web.get("/about", about), web.post("/continue", go_on)])
        return app


@pytest.fixture
def module(monkeypatch):
    """Makes the module whose file the first line of a block names."""

    def make(name):
        (code,) = [block for block in BLOCKS if block.startswith(f"# {name.replace('.', '/')}.py\n")]
        made = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, made)
        exec(compile(code, name, "exec"), made.__dict__)  # noqa: S102  # the page's own
        return made

    return make


def test_the_policy_keeps_the_laws_of_policies(module):
    policy = module("scheduler_service.allocation.cautious").Cautious()
    checked = [
        law
        for name, law in vars(laws).items()
        if name.startswith("test_") and any(mark.args[0] == "policy" for mark in getattr(law, "pytestmark", ()))
    ]
    assert len(checked) >= 3
    for law in checked:
        law(policy=policy)


async def test_policy_and_backend_are_served_by_their_names(module, monkeypatch):
    monkeypatch.setitem(POLICIES, "cautious", module("scheduler_service.allocation.cautious").Cautious())
    module("scheduler_service.generation.backends.plain")
    monkeypatch.setitem(SERVERS, "plain", "scheduler_service.generation.backends.plain")
    async with predictor() as predictions, PlainServer() as server:
        settings = {"backend": "plain", "backend_url": server.url}
        settings |= {"predictor": predictions}
        async with scheduler(policy="cautious", **settings) as address, AsyncSchedulerClient(address) as client:
            reply = await client.complete("What is 3 + 9 - 4?")
    assert reply.answer == " 42"
    assert reply.usage.reasoning_tokens == 3
    assert reply.allocation.policy in ("cautious", "uniform")  # the guard's choice


async def test_the_kind_of_predictor_is_trained_kept_exported_and_served(module, monkeypatch, tmp_path):
    module("exporters.predictors.ridge")
    monkeypatch.setitem(kinds.KINDS, "ridge", "exporters.predictors.ridge")
    rng = np.random.default_rng(0)
    states = rng.normal(size=(80, 6)).astype(np.float32)
    accuracy = np.clip(0.5 + 0.2 * states[:, :1] * np.linspace(0, 1, 16), 0, 1)
    curves = Curves.measured([f"q{at}" for at in range(80)], ["?"] * 80, window_points(16), accuracy)
    trained = module_of("ridge").fit("ridge", Training(curves, states, data={"name": "x", "digest": ""}))
    save_checkpoint(trained, tmp_path / "checkpoint")
    export(
        load_checkpoint(tmp_path / "checkpoint"), tmp_path / "models/ridge", curves.questions, states,
        name="ridge", version="1", precision="float32",
    )  # fmt: skip
    async with (
        predictor(tmp_path / "models", default_model="ridge") as address,
        AsyncPredictorClient(address) as client,
    ):
        query = predictor_pb2.Query(hidden_state=predictor_pb2.HiddenState(values=states[0].tolist()))
        reply = await client.stub.Predict(predictor_pb2.PredictRequest(queries=[query]))
        model = (await client.stub.GetModel(predictor_pb2.GetModelRequest())).model
    assert np.abs(np.array(reply.predictions[0].curve) - accuracy[0]).max() < 0.05
    assert (model.kind, model.kind_name) == (predictor_pb2.MODEL_KIND_CUSTOM, "ridge")
    assert model.reliability > 0.9


async def test_a_predictor_made_elsewhere_is_served(module, tmp_path):
    (code,) = [block for block in BLOCKS if "write_manifest" in block]
    ridge = module("exporters.predictors.ridge")
    folder = tmp_path / "models/mine"
    folder.mkdir(parents=True)
    ridge.Ridge(np.zeros((6, 16), np.float32), np.full(16, 0.25, np.float32), None).write(folder, "float32")
    exec(code.replace("models/mine", str(folder)), {})  # noqa: S102  # the page's own
    async with (
        predictor(tmp_path / "models", default_model="mine") as address,
        AsyncPredictorClient(address) as client,
    ):
        query = predictor_pb2.Query(hidden_state=predictor_pb2.HiddenState(values=[1.0] * 6))
        reply = await client.stub.Predict(predictor_pb2.PredictRequest(queries=[query]))
    assert reply.predictions[0].curve == pytest.approx([0.25] * 16)


def test_the_places_that_the_page_names_exist():
    named = re.findall(r"`((?:scheduler_service|exporters|tests|predictor_service)/[^`]*)`", PAGE)
    assert len(named) > 6
    for path in named:
        assert (Path(__file__).parents[2] / path).exists(), path
