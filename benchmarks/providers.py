"""The same predictor on the CPU, on CUDA and on TensorRT in one run: latency, throughput, start, and if they agree.

    python -m benchmarks.providers --providers cpu,cuda,tensorrt --engines /tmp/engines --json out/bench/providers.json

Graphs: the shipped text model, the shipped model of hidden states, one of the size of an encoder (21M weights at
random), and your own with ``--model FOLDER``. One query a call, with 1, 16 and 64 callers who never wait; the providers
take turns in every round, and their order changes from round to round. A provider that cannot be had ends the run: the
predictor does not start on another one.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from benchmarks.callers import keep
from benchmarks.plots import Panel, draw
from benchmarks.predictor import load, message, predict, write_encoder_sized
from benchmarks.processes import Service, service
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from predictor_service.artifact import Manifest, read_manifest
from predictor_service.inputs.features import Query
from predictor_service.settings import SHIPPED_MODELS

_SHIPPED = ("demo-text", "gsm8k-r1-1.5b-hidden")
_AT_ONCE = (1, 16, 64)


def requests_for(manifest: Manifest) -> list[pb.PredictRequest]:
    """Calls for one query each: texts of ten to sixty words, hidden states at random, or both."""
    states = np.random.default_rng(1).normal(size=(64, manifest.hidden_size)).astype(np.float32)
    texts = [
        "What is 17 + 4, and how do you know it? " * (1 + at % 6) if manifest.takes_text else "" for at in range(64)
    ]
    return [
        message(manifest.name, Query(text, state if manifest.hidden_size else None))
        for text, state in zip(texts, states, strict=True)
    ]


async def curves(address: str, requests: Sequence[pb.PredictRequest]) -> Any:
    """What a predictor answers to each call, as rows."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = predict(channel)
        return np.array([(await call(request)).predictions[0].curve for request in requests])


def flags(folder: Path, manifest: Manifest, provider: str, engines: Path | None) -> list[str]:
    """How a predictor is started."""
    kept = [f"--engines={engines}"] if engines and provider == "tensorrt" else []
    return [f"--models={folder}", f"--default-model={manifest.name}", f"--provider={provider}", *kept]


async def started(stack: AsyncExitStack, provider: str, *arguments: str) -> tuple[Service, float]:
    """A predictor, and the seconds until it was ready. Ends the program where it does not start."""
    before = time.perf_counter()
    running = await stack.enter_async_context(service("predictor", *arguments))
    if running.address.endswith(":"):
        sys.exit(f"it did not start on {provider}; see why: predictive-scheduling predictor --provider {provider}")
    return running, time.perf_counter() - before


async def measure(
    folder: Path, manifest: Manifest, providers: Sequence[str], engines: Path | None, rounds: int, calls: int
) -> dict[str, Any]:
    """Measure one graph on all providers; ``folder`` holds its folder alone."""
    requests = requests_for(manifest)
    found: dict[str, Any] = {one: {} for one in providers}
    async with AsyncExitStack() as stack:
        running: dict[str, Service] = {}
        for one in providers:
            given = flags(folder, manifest, one, engines)
            async with AsyncExitStack() as first:
                _, found[one]["first_start_s"] = await started(first, one, *given)
            running[one], found[one]["second_start_s"] = await started(stack, one, *given)
        answers = {one: await curves(contender.address, requests) for one, contender in running.items()}
        for one in providers:
            found[one]["largest_difference"] = float(np.abs(answers[one] - answers[providers[0]]).max())
        for callers in _AT_ONCE:
            seconds: dict[str, list[float]] = {one: [] for one in running}
            rates: dict[str, list[float]] = {one: [] for one in running}
            for at_round in range(rounds + 1):
                turn = list(running.items())
                for one, contender in turn if at_round % 2 else reversed(turn):
                    seen, took = await load(contender.address, requests, callers, calls)
                    if at_round:  # the first one warms up
                        rates[one].append(calls / took)
                        seconds[one] += seen
            for one in running:
                found[one][str(callers)] = {
                    "p50_ms": 1e3 * statistics.median(seconds[one]),
                    "p99_ms": 1e3 * statistics.quantiles(seconds[one], n=100)[98],
                    "queries_a_second": statistics.median(rates[one]),
                }
    return found


def panels(found: dict[str, Any]) -> list[Panel]:
    """What is drawn: queries a second of each graph."""
    drawn = []
    for name, providers in found.items():
        bars = {
            one: {str(callers): figures[str(callers)]["queries_a_second"] for callers in _AT_ONCE}
            for one, figures in providers.items()
        }
        drawn.append(Panel(f"queries a second, {name}", "1/s", bars, logarithmic=True))
    return drawn


def report(found: dict[str, Any]) -> list[str]:
    """The figures as lines."""
    lines = []
    for name, providers in found.items():
        for one, figures in providers.items():
            start = f"ready after {figures['first_start_s']:.1f} s, again after {figures['second_start_s']:.1f} s"
            lines.append(f"{name} on {one}: {start}; curves differ by {figures['largest_difference']:.1e} at most")
        for callers in map(str, _AT_ONCE):
            first = next(iter(providers.values()))[callers]["queries_a_second"]
            for one, figures in providers.items():
                seen = figures[callers]
                times = f"p50 {seen['p50_ms']:8.2f} ms, p99 {seen['p99_ms']:8.2f} ms"
                rate = f"{seen['queries_a_second']:8.0f} queries a second, {seen['queries_a_second'] / first:.2f} times"
                lines.append(f"{callers:>4} at once  {one:9} {times}, {rate}")
    return lines


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--providers", default="cpu,cuda", help="the first one is what the others are compared with")
    parser.add_argument("--engines", type=Path, help="where TensorRT keeps its engines; an empty folder")
    parser.add_argument("--model", type=Path, action="append", default=[], help="a model folder of your own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=640)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        write_encoder_sized(Path(scratch) / "encoder-sized")
        own = [Path(scratch) / "encoder-sized", *(SHIPPED_MODELS / name for name in _SHIPPED), *given.model]
        for folder in own:
            alone = Path(scratch) / "models" / folder.name
            shutil.copytree(folder, alone / folder.name)
            manifest = read_manifest(folder)
            providers = given.providers.split(",")
            measured = measure(alone, manifest, providers, given.engines, given.rounds, given.calls)
            found[manifest.name] = asyncio.run(measured)
    print("\n".join(report(found)))  # noqa: T201
    keep(given, found, lambda path: draw(path, panels(found)))


if __name__ == "__main__":
    main()
