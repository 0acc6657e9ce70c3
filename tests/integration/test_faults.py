"""Faults from all sides: calls end with a documented status, and the ledger balances to the token."""

import asyncio
import os
import socket
import sys
from collections import Counter
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import numpy as np
import pytest

from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.open_inference.v2 import open_inference_pb2
from predictive_scheduling.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from predictive_scheduling.scheduler.v1 import scheduler_pb2
from tests.integration.running import DOCUMENTED, balanced, predictor, scheduler
from tests.standins.backend import ScriptedBackend
from tests.waiting import PATIENCE, eventually


def endless(prompt):
    return [" 7", "\n\n"] if prompt.endswith("Final answer:") else ["t"] * 4000


class Garbage(predictor_pb2_grpc.PredictorServiceServicer):
    """A predictor that answers, but not what it should."""

    def __init__(self, kind):
        self.kind = kind

    async def GetModel(self, request, context):
        model = predictor_pb2.Model(
            name="g", version="1", takes_text=True, max_text_bytes=1 << 20, windows=16, budget_window_tokens=16,
        )  # fmt: skip
        if self.kind.startswith("model: "):
            field, value = self.kind.removeprefix("model: ").split("=")
            setattr(model, field, type(getattr(model, field))(value))
        return predictor_pb2.GetModelResponse(model=model)

    async def Predict(self, request, context):
        if self.kind == "hangs":
            await asyncio.sleep(3600)
        if self.kind == "crashes":
            raise RuntimeError("no")
        curve = {
            "nan": [float("nan")] * 16, "beyond": [7.0] * 16, "empty": [], "short": [0.5] * 15, "long": [0.5] * 17,
            "6,000 values": [at / 6000 for at in range(6000)], "falling": [1 - at / 16 for at in range(16)],
        }.get(self.kind, [0.5] * 16)  # fmt: skip
        uncertainty = {"uncertainty": [float("nan")] * 16, "more uncertainty": [0.1] * 17}.get(self.kind, [])
        wrong = 3 if self.kind == "count" else len(request.queries)
        status = 99 if self.kind == "status" else predictor_pb2.PREDICTION_STATUS_OK
        predictions = [
            predictor_pb2.Prediction(status=status, curve=curve, uncertainty=uncertainty) for _ in range(wrong)
        ]
        window = 7 if self.kind == "window" else 16
        version = "2" if self.kind == "another version than it says" else "1"
        return predictor_pb2.PredictResponse(
            model="g", version=version, budget_window_tokens=window, predictions=predictions
        )


KINDS = [
    "nan", "beyond", "empty", "count", "status", "window", "crashes", "hangs", "short", "long", "6,000 values",
    "falling", "uncertainty", "more uncertainty", "another version than it says", "model: windows=0",
    "model: windows=4000000000", "model: hidden_size=4000000000", "model: takes_text=",
    "model: budget_window_tokens=7", "model: name=", f"model: version={'1' * 300}",
]  # fmt: skip


@asynccontextmanager
async def garbage(kind):
    server = grpc.aio.server()
    predictor_pb2_grpc.add_PredictorServiceServicer_to_server(Garbage(kind), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.parametrize("policy", ["price", "envelope"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_predictor_that_answers_garbage_leaves_everybody_with_the_uniform_budget(kind, policy):
    async with garbage(kind) as address:
        settings = {"predictor": address, "predictor_timeout_ms": 100, "policy": policy, "cap_tokens": 128}
        async with scheduler(ScriptedBackend(endless), **settings) as server, AsyncSchedulerClient(server) as client:
            done = await client.complete("q")
            budget = await balanced(client)
    assert done.allocation.policy == "uniform"
    assert done.usage.reasoning_tokens == 64
    assert budget.covered_requests == 0
    assert sum(budget.prediction_outcomes.values()) == 1


@pytest.fixture
def unused_tcp_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def start_predictor(port):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "predictive_scheduling_cli", "predictor", f"--listen=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, env=dict(os.environ),
    )  # fmt: skip
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await asyncio.wait_for(channel.channel_ready(), PATIENCE)
    return process


async def test_a_predictor_that_is_killed_costs_coverage_and_no_call_and_comes_back(unused_tcp_port):
    process = await start_predictor(unused_tcp_port)
    settings = {
        "predictor": f"127.0.0.1:{unused_tcp_port}", "policy": "price",
        "predictor_cache": 0, "tokens_per_query": 32, "cap_tokens": 64,
    }  # fmt: skip
    async with scheduler(ScriptedBackend(endless), **settings) as server, AsyncSchedulerClient(server) as client:

        async def outcomes(count):
            before = Counter(dict((await client.budget()).prediction_outcomes))
            for at in range(count):
                assert (await client.complete(f"What is {at} + 2?")).answer
            return Counter(dict((await client.budget()).prediction_outcomes)) - before

        assert await outcomes(10) == {"fresh": 10}
        process.kill()
        await process.wait()
        away = await outcomes(20)
        assert away["fresh"] == 0
        assert sum(away.values()) == 20
        process = await start_predictor(unused_tcp_port)

        async def fresh():
            return (await outcomes(1))["fresh"]

        await eventually(fresh)  # once the breaker has closed again
        assert (await outcomes(10))["fresh"] >= 9
        await balanced(client)
    process.terminate()
    await process.wait()


METHODS = [
    f"/predictive_scheduling.scheduler.v1.SchedulerService/{name}"
    for name in ("Generate", "Complete", "Allocate", "ReportOutcome", "GetBudget", "Nothing")
]


async def test_bytes_that_are_no_message_end_with_a_status_and_the_server_lives():
    rng = np.random.default_rng(0)
    async with scheduler(ScriptedBackend(endless), policy="uniform") as server, AsyncSchedulerClient(server) as client:
        async with grpc.aio.insecure_channel(server) as channel:
            seen = Counter()
            for at in range(200):
                noise = rng.bytes(int(rng.integers(0, 200)))
                call = channel.unary_unary(METHODS[at % len(METHODS)])
                try:
                    await call(noise, timeout=PATIENCE)
                    seen["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    seen[error.code().name] += 1
            assert set(seen) <= {"OK", "INVALID_ARGUMENT", "UNIMPLEMENTED"}
            too_large = channel.unary_unary(METHODS[1])
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await too_large(bytes(20 << 20), timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await client.complete("still there?")).answer
        await balanced(client)


def mutated(rng, raw):
    """A message with some bytes changed, cut off, doubled or moved."""
    data = bytearray(raw)
    for _ in range(rng.integers(1, 3)):
        at = rng.integers(0, len(data) + 1)
        to = min(len(data), at + rng.integers(0, 5))
        match rng.integers(4):
            case 0 if at < len(data):
                data[at] = rng.integers(256)
            case 1:
                data = data[:to]
            case 2:
                data[to:to] = data[at:to]
            case _:
                data[at:to] = rng.bytes(to - at)
    return bytes(data) or b"\0"


async def test_messages_that_are_almost_right_end_with_a_documented_status_and_balance():
    rng = np.random.default_rng(1)
    job = scheduler_pb2.Job(
        prompt="What is 1 + 1? " * 20, request_id="id", tenant="t", min_reasoning_tokens=16, max_reasoning_tokens=64,
        priority=3, traces=2, hidden_state=[0.5] * 8, hidden_state_layer=3,
    )  # fmt: skip
    job.sampling.temperature = 0.5
    plan = scheduler_pb2.AllocateRequest(items=[scheduler_pb2.PlanItem(curve=[0.1, 0.5])], policy="exact")
    messages = {
        "Generate": scheduler_pb2.GenerateRequest(job=job),
        "Complete": scheduler_pb2.CompleteRequest(job=job),
        "Allocate": plan,
        "ReportOutcome": scheduler_pb2.ReportOutcomeRequest(request_id="id", score=0.5),
    }
    seen = Counter()
    async with predictor() as predictions:
        settings = {"policy": "price", "predictor": predictions}
        async with scheduler(ScriptedBackend(endless), **settings) as server, AsyncSchedulerClient(server) as client:
            async with grpc.aio.insecure_channel(server) as channel:
                for name, message in messages.items():
                    call = channel.unary_stream(f"/predictive_scheduling.scheduler.v1.SchedulerService/{name}")
                    for _ in range(150):
                        try:
                            async for _ in call(mutated(rng, message.SerializeToString()), timeout=PATIENCE):
                                pass
                            seen["OK"] += 1
                        except grpc.aio.AioRpcError as error:
                            seen[error.code()] += 1
            await balanced(client)
    assert set(seen) <= {"OK", *DOCUMENTED}
    assert seen["OK"] > 50
    assert seen[grpc.StatusCode.INVALID_ARGUMENT] > 50


async def test_queries_that_are_almost_right_end_with_a_documented_status():
    rng = np.random.default_rng(2)
    query = predictor_pb2.Query(text="What is 1 + 1? " * 20)
    tensor = open_inference_pb2.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"What is 1 + 1? " * 20)
    messages = {
        "/predictive_scheduling.predictor.v1.PredictorService/Predict": predictor_pb2.PredictRequest(queries=[query]),
        "/inference.GRPCInferenceService/ModelInfer": open_inference_pb2.ModelInferRequest(inputs=[tensor]),
    }
    seen = Counter()
    async with predictor() as server, grpc.aio.insecure_channel(server) as channel:
        for name, message in messages.items():
            for _ in range(300):
                try:
                    await channel.unary_unary(name)(mutated(rng, message.SerializeToString()), timeout=PATIENCE)
                    seen["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    seen[error.code()] += 1
    assert set(seen) <= {"OK", *DOCUMENTED}
    assert seen["OK"] > 50
    assert seen[grpc.StatusCode.INVALID_ARGUMENT] > 50
