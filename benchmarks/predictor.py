"""The predictor against its ceiling and against the least that could serve the same graph, in one run.

    python -m benchmarks.predictor --json out/bench/predictor.json

Three graphs: the shipped text model, which is tiny; the paper's MLP, on hidden states of 1,536 values; and one of the
size of an encoder (five dense layers of 2,048, 21M weights at random). Contenders:

* in process: onnxruntime at the batch size that is best for it, one thread, nothing around it: the ceiling;
* plain batcher: a grpc.aio server of our own making with an asyncio queue before the same session, and no checks;
* echo: a grpc.aio server that answers a fixed curve: what gRPC alone costs;
* predictor: ours, as it is deployed, one call a query;
* by stream: the same, by the streams that the scheduler keeps open.

CPU time a query of the contender's process (its inverse is the queries that a core serves), queries a second, and
latencies, with as many callers as said, who never wait. ``stream_to_echo``: the queries a second by stream over the
echo's calls a second, with as many callers.
"""

from __future__ import annotations

import argparse
import asyncio
import operator
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from opentelemetry import metrics, trace
from opentelemetry.trace import SpanKind

from benchmarks.callers import at_once, keep
from benchmarks.plots import Panel, draw
from benchmarks.processes import Service, process, service
from predictive_scheduling.budget_points import evenly_spaced
from predictive_scheduling.interceptors import StreamedCalls
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from predictive_scheduling.predictor.v1 import predictor_pb2_grpc
from predictor_service.artifact import Manifest, write_manifest
from predictor_service.inputs.features import Query
from predictor_service.model import LoadedModel
from predictor_service.settings import SHIPPED_MODELS
from scheduler_service.prediction.streams import METHOD, PredictionStreams

_WIDTH, _LAYERS, _WINDOWS = 2048, 5, 16
_MLP, _MLP_WIDTH = "gsm8k-r1-1.5b-hidden", 1536


def write_encoder_sized(folder: Path) -> None:
    """Write a model folder with random weights of an encoder's size; it takes a hidden state."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "hidden_state"
    for layer in range(_LAYERS):
        out = _WIDTH if layer < _LAYERS - 1 else _WINDOWS
        values = rng.normal(0, 1 / np.sqrt(_WIDTH), (_WIDTH, out)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        kind, last = ("Relu", f"h{layer}") if layer < _LAYERS - 1 else ("Sigmoid", "curve")
        nodes.append(helper.make_node(kind, [f"m{layer}"], [last]))
    graph = helper.make_graph(
        nodes,
        "encoder_sized",
        [helper.make_tensor_value_info("hidden_state", TensorProto.FLOAT, ["n", _WIDTH])],
        [helper.make_tensor_value_info("curve", TensorProto.FLOAT, ["n", _WINDOWS])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    write_manifest(
        folder,
        Manifest(
            name="encoder", version="1", kind="hidden_state_mlp", budget_points=evenly_spaced(_WINDOWS, 16),
            takes_text=False, hidden_size=_WIDTH, layer=0, max_text_bytes=0, training_data={}, validation={},
            reliability=0.0, mean_curve=(0.5,) * _WINDOWS, uncertainty=(0.1,) * _WINDOWS,
        ),
    )  # fmt: skip


def queries(model: str, count: int) -> list[Query]:
    """Queries that the model takes."""
    if size := {"encoder": _WIDTH, _MLP: _MLP_WIDTH}.get(model):
        return [Query("", row) for row in np.random.default_rng(1).normal(size=(count, size)).astype(np.float32)]
    return [Query(f"What is {at} + {2 * at}, and what is half of it?") for at in range(count)]


def message(model: str, query: Query) -> pb.PredictRequest:
    """A call for one query."""
    asked = pb.Query(text=query.text)
    if query.hidden_state is not None:
        asked.hidden_state.values.extend(query.hidden_state.tolist())
    return pb.PredictRequest(model=model, queries=[asked])


def ceiling(model: LoadedModel, rounds: int) -> dict[str, float]:
    """CPU time a query in this process, at the best batch size."""
    best = {"batch": 0.0, "cpu_us_a_query": float("inf")}
    for batch in (1, 4, 16, 64):
        asked = queries(model.name, batch)
        seconds = []
        for _ in range(rounds + 1):
            before, runs = time.process_time(), max(2, 512 // batch)
            for _ in range(runs):
                model.run(asked)
            seconds.append((time.process_time() - before) / (runs * batch))
        median = 1e6 * statistics.median(seconds[1:])
        if median < best["cpu_us_a_query"]:
            best = {"batch": float(batch), "cpu_us_a_query": median}
    return best


class PlainBatcher(predictor_pb2_grpc.PredictorServiceServicer):
    """Whatever has arrived runs as one batch, in a thread; one query a call."""

    def __init__(self, model: LoadedModel | None) -> None:
        """Serve ``model``; with ``None`` every call is answered at once with a constant curve."""
        self._model = model
        self._waiting: list[tuple[Query, asyncio.Future[Any]]] = []
        self._arrived = asyncio.Event()

    async def Predict(self, request: pb.PredictRequest, context: Any) -> pb.PredictResponse:
        """Wait for the batch that holds the query, and return its curve."""
        if self._model is None:
            return pb.PredictResponse(predictions=[pb.Prediction(curve=[0.5] * _WINDOWS)])
        asked = request.queries[0]
        state = np.array(asked.hidden_state.values, np.float32) if asked.HasField("hidden_state") else None
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((Query(asked.text, state), future))
        self._arrived.set()
        return pb.PredictResponse(predictions=[pb.Prediction(curve=await future)])

    async def run(self) -> None:
        """Run batches for ever."""
        if self._model is None:
            return
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:64], self._waiting[64:]
                result = await asyncio.to_thread(self._model.run, [query for query, _ in batch])
                for (_, future), curve in zip(batch, result.curves, strict=True):
                    future.set_result(curve)


async def serve(folder: Path | None) -> None:
    """Run a plain batcher, or an echo, until the process is ended."""
    servicer = PlainBatcher(LoadedModel(folder) if folder else None)  # type: ignore[abstract]
    server = grpc.aio.server()
    predictor_pb2_grpc.add_PredictorServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stderr.write(f"listening on port {port}\n")
    async with asyncio.TaskGroup() as group:
        group.create_task(servicer.run())
        await server.wait_for_termination()


def predict(channel: grpc.aio.Channel) -> Any:
    """Our own API's call."""
    return predictor_pb2_grpc.PredictorServiceStub(channel).Predict


@asynccontextmanager
async def by_stream(channel: grpc.aio.Channel) -> AsyncIterator[Any]:
    """The same by the scheduler's streams; a query that has to be asked by a call is an error."""
    nothing = StreamedCalls(METHOD, SpanKind.CLIENT, trace.NoOpTracerProvider(), metrics.NoOpMeterProvider())
    streams = PredictionStreams(channel, nothing)

    async def ask(request: pb.PredictRequest) -> None:
        answer = await streams.ask(request, 60.0)
        if answer is None or not answer.HasField("response"):
            raise RuntimeError(f"no answer by stream: {answer}")

    try:
        for _ in range(1000):
            if await streams.ask(pb.PredictRequest(), 60.0) is not None:  # refused, but by stream: they are open
                break
            await asyncio.sleep(0.01)
        yield ask
    finally:
        await streams.aclose()


@asynccontextmanager
async def as_calls(method: Callable[[grpc.aio.Channel], Any], channel: grpc.aio.Channel) -> AsyncIterator[Any]:
    """A unary method."""
    yield method(channel)


async def load(
    address: str,
    requests: Sequence[Any],
    callers: int,
    calls: int,
    method: Callable[[grpc.aio.Channel], Any] | None = predict,
) -> tuple[list[float], float]:
    """Seconds of each call of ``method`` (``None``: by stream), with ``callers`` that never wait, and of them all."""
    found: list[float] = []
    async with (
        grpc.aio.insecure_channel(address) as channel,
        by_stream(channel) if method is None else as_calls(method, channel) as call,
    ):
        await call(requests[0])

        async def timed(at: int) -> None:
            started = time.perf_counter()
            await call(requests[at % len(requests)])
            found.append(time.perf_counter() - started)

        began = time.perf_counter()
        await at_once(calls, callers, timed)
        return found, time.perf_counter() - began


async def measure(folder: Path, name: str, rounds: int, calls: int) -> dict[str, Any]:
    """Measure all contenders on one graph."""
    requests = [message(name, query) for query in queries(name, 64)]
    echoed = [message("", Query("x"))]
    module = ("-m", "benchmarks.predictor")
    async with AsyncExitStack() as stack:
        running: dict[str, Service] = {
            "echo": await stack.enter_async_context(process(*module, "--serve=echo")),
            "plain batcher": await stack.enter_async_context(process(*module, f"--serve={folder / name}")),
            "predictor": await stack.enter_async_context(
                service("predictor", f"--models={folder}", f"--default-model={name}", "--metrics-listen=127.0.0.1:0")
            ),
        }
        running["by stream"] = running["predictor"]
        found: dict[str, Any] = {}
        for callers in (1, 16, 64):
            costs: dict[str, list[float]] = {one: [] for one in running}
            seconds: dict[str, list[float]] = {one: [] for one in running}
            rates: dict[str, list[float]] = {one: [] for one in running}
            for at_round in range(rounds + 1):
                for one, contender in running.items():
                    before = contender.cpu_seconds()
                    asked, method = echoed if one == "echo" else requests, None if one == "by stream" else predict
                    seen, took = await load(contender.address, asked, callers, calls, method)
                    if at_round:
                        rates[one].append(calls / took)
                        costs[one].append((contender.cpu_seconds() - before) / calls)
                        seconds[one] += seen
            found[str(callers)] = {
                one: {
                    "queries_a_second": statistics.median(rates[one]),
                    "cpu_us_a_query": 1e6 * statistics.median(costs[one]),
                    "p50_ms": 1e3 * statistics.median(seconds[one]),
                    "p99_ms": 1e3 * statistics.quantiles(seconds[one], n=100)[98],
                }
                for one in running
            }
            ratios = map(operator.truediv, rates["by stream"], rates["echo"])
            found[str(callers)]["stream_to_echo"] = statistics.median(ratios)
    return found


def panels(found: dict[str, Any]) -> list[Panel]:
    """What is drawn: CPU time a query of each graph, with the ceiling beside it."""
    drawn = []
    for name, figures in found.items():
        served, ceiling = figures["served"], figures["in process"]["cpu_us_a_query"]
        contenders = [one for one in next(iter(served.values())) if one != "stream_to_echo"]
        bars = {one: {callers: seen[one]["cpu_us_a_query"] for callers, seen in served.items()} for one in contenders}
        alone = {"in process, best batch": dict.fromkeys(served, ceiling)}
        drawn.append(Panel(f"CPU time a query, {name}", "µs", alone | bars, logarithmic=True))
    return drawn


def main() -> None:
    """Serve one of the contenders, or measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--serve")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=640)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(None if given.serve == "echo" else Path(given.serve)))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        write_encoder_sized(Path(scratch) / "encoder")
        graphs = ((SHIPPED_MODELS, "demo-text"), (SHIPPED_MODELS, _MLP), (Path(scratch), "encoder"))
        for folder, name in graphs:
            found[name] = {"in process": ceiling(LoadedModel(folder / name), given.rounds)}
            found[name]["served"] = asyncio.run(measure(folder, name, given.rounds, given.calls))
    for name, figures in found.items():
        best = figures["in process"]
        print(f"{name}: in process {best['cpu_us_a_query']:.0f} µs a query, batches of {best['batch']:.0f}")  # noqa: T201
        for callers, contenders in figures["served"].items():
            print(f"{callers:>4} at once  stream_to_echo {contenders['stream_to_echo']:.2f}")  # noqa: T201
            for one, seen in contenders.items():
                if one == "stream_to_echo":
                    continue
                times = f"p50 {seen['p50_ms']:7.2f} ms, p99 {seen['p99_ms']:7.2f} ms"
                rate = f"{seen['queries_a_second']:6.0f} a second, {seen['cpu_us_a_query']:7.0f} µs CPU a query"
                print(f"{callers:>4} at once  {one:14} {rate}, {times}")  # noqa: T201
    keep(given, found, lambda path: draw(path, panels(found)))


if __name__ == "__main__":
    main()
