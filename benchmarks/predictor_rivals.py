"""The predictor against the servers that one would pick instead, in one run: Triton and MLServer.

    python -m benchmarks.predictor_rivals --triton-python …/bin/python --mlserver-python …/bin/python

Every server gets the same request by the same protocol, Open Inference V2 over gRPC: one hidden state, as raw bytes,
and runs the same onnxruntime with one thread; ``by stream`` is our own protocol, as the scheduler speaks it. Two
graphs: the paper's MLP (the shipped gsm8k-r1-1.5b-hidden), and one of an encoder's size. Their dependencies exclude
ours, so each has an environment of its own; a rival whose interpreter is not given is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from benchmarks.callers import keep
from benchmarks.plots import Panel, draw
from benchmarks.predictor import load, write_encoder_sized
from benchmarks.processes import Service, process, service
from predictive_scheduling.open_inference.v2 import open_inference_pb2 as pb
from predictive_scheduling.predictor.v1 import predictor_pb2
from predictor_service.artifact import read_manifest
from predictor_service.settings import SHIPPED_MODELS

_CONTENDERS = Path(__file__).parent / "contenders"
_OURS, _STREAM = "predictor", "by stream"


def requests(name: str, size: int) -> list[pb.ModelInferRequest]:
    """Calls for one hidden state each."""
    states = np.random.default_rng(1).normal(size=(64, size)).astype(np.float32)
    tensor = pb.ModelInferRequest.InferInputTensor(name="hidden_state", datatype="FP32", shape=[1, size])
    return [
        pb.ModelInferRequest(model_name=name, inputs=[tensor], raw_input_contents=[one.tobytes()]) for one in states
    ]


def streamed(name: str, size: int) -> list[predictor_pb2.PredictRequest]:
    """The same for our streams."""
    states = np.random.default_rng(1).normal(size=(64, size))
    query = predictor_pb2.Query
    return [
        predictor_pb2.PredictRequest(model=name, queries=[query(hidden_state=predictor_pb2.HiddenState(values=one))])
        for one in states
    ]


def infer(channel: grpc.aio.Channel) -> Any:
    """The Open Inference Protocol's call."""
    return channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        pb.ModelInferRequest.SerializeToString,
        pb.ModelInferResponse.FromString,
    )


async def measure(folder: Path, pythons: dict[str, str], rounds: int, calls: int) -> dict[str, Any]:
    """Measure all contenders on the model in ``folder``; they take turns in each round."""
    manifest = read_manifest(folder)
    programs = {"triton": "triton.py", "mlserver": "mlserver_model.py"}
    async with AsyncExitStack() as stack:
        arguments = ("predictor", f"--models={folder.parent}", f"--default-model={manifest.name}")
        running: dict[str, Service] = {
            _OURS: await stack.enter_async_context(service(*arguments, "--metrics-listen=127.0.0.1:0"))
        }
        for rival, python in pythons.items():
            started = process(str(_CONTENDERS / programs[rival]), str(folder / "model.onnx"), python=python)
            running[rival] = await stack.enter_async_context(started)
        running[_STREAM] = running[_OURS]
        found: dict[str, Any] = {}
        for callers in (1, 16, 64):
            seen: dict[str, list[dict[str, float]]] = {one: [] for one in running}
            for at_round in range(rounds + 1):
                for one, contender in running.items():
                    size, name = manifest.hidden_size, "model" if one in pythons else manifest.name
                    asked: Sequence[Any] = streamed(name, size) if one == _STREAM else requests(name, size)
                    method = None if one == _STREAM else infer
                    cpu = contender.cpu_seconds()
                    seconds, took = await load(contender.address, asked, callers, calls, method)
                    if at_round:
                        seen[one].append(
                            {
                                "calls_a_second": calls / took,
                                "cpu_us_a_call": 1e6 * (contender.cpu_seconds() - cpu) / calls,
                                "p50_ms": 1e3 * statistics.median(seconds),
                                "p99_ms": 1e3 * statistics.quantiles(seconds, n=100)[98],
                            }
                        )
            found[str(callers)] = {
                one: {key: statistics.median(each[key] for each in all_rounds) for key in all_rounds[0]}
                for one, all_rounds in seen.items()
            }
        found["memory_mb"] = {one: contender.memory_mb() for one, contender in running.items()}
    return found


def panels(found: dict[str, Any]) -> list[Panel]:
    """What is drawn: calls a second of each graph."""
    drawn = []
    for graph, figures in found.items():
        served = {callers: seen for callers, seen in figures.items() if callers.isdigit()}
        contenders = next(iter(served.values()))
        bars = {one: {callers: seen[one]["calls_a_second"] for callers, seen in served.items()} for one in contenders}
        drawn.append(Panel(f"Calls, {graph}", "a second", bars))
    return drawn


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--triton-python")
    parser.add_argument("--mlserver-python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=640)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    pythons = {"triton": given.triton_python, "mlserver": given.mlserver_python}
    pythons = {name: python for name, python in pythons.items() if python}
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        write_encoder_sized(Path(scratch) / "encoder")
        for folder in (SHIPPED_MODELS / "gsm8k-r1-1.5b-hidden", Path(scratch) / "encoder"):
            found[folder.name] = asyncio.run(measure(folder, pythons, given.rounds, given.calls))
    for graph, figures in found.items():
        print(f"{graph}; resident MB of the first process: {figures['memory_mb']}")  # noqa: T201
        for callers in ("1", "16", "64"):
            for one, seen in figures[callers].items():
                cost = f"{seen['calls_a_second']:7.0f} calls/s {seen['cpu_us_a_call']:7.0f} µs CPU a call"
                print(f"{callers:>4} at once  {one:10} {cost}, p50 {seen['p50_ms']:7.2f} p99 {seen['p99_ms']:7.2f} ms")  # noqa: T201
    keep(given, found, lambda path: draw(path, panels(found)))


if __name__ == "__main__":
    main()
