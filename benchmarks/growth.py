"""How cost grows: with requests in flight, with tenants, with models; and what a service costs that does nothing.

    python -m benchmarks.growth --json out/bench/growth.json --plot out/bench/growth.svg

Requests and tenants are measured on a scheduler's pipeline in this process, all its parts as deployed but gRPC, whose
streams would cost a client as much as the server: a request comes in, gets its budget, waits for one of 64 slots of a
backend that does not answer until told to, and ends. Exponents are least-squares fits of log cost over log n: 0 means
that one more costs the same however many there are.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.callers import keep
from benchmarks.processes import backend, resident_mb, service
from predictive_scheduling import AsyncPredictorClient, telemetry
from predictive_scheduling.version import VERSION
from predictor_service.settings import SHIPPED_MODELS
from scheduler_service.api.generations import Generations
from scheduler_service.assembly import make_pipeline, state_of
from scheduler_service.domain import Allocation, Job, Sampling
from scheduler_service.generation.backends.base import Capabilities, Ended, Limits, Piece
from scheduler_service.generation.forcing import Call, CallEnd
from scheduler_service.prediction.client import NoPredictor
from scheduler_service.settings import SchedulerSettings
from scheduler_service.telemetry.journal import Journal
from scheduler_service.telemetry.metrics import MetricsObserver
from scheduler_service.telemetry.observers import Observers
from scheduler_service.telemetry.spans import SpanObserver

_IDLE_SECONDS = 10


class GatedBackend:
    """Answers with one token and its end, once it is let."""

    name = "gated"
    capabilities = Capabilities()

    def __init__(self) -> None:
        """Start with no call held."""
        self.gate = asyncio.Event()

    async def start(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def limits(self) -> Limits:
        """Return 64 slots, and no limit of length."""
        return Limits("m", 8192, 8192, 64)

    async def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        """Hold the call until it is released, then end it."""
        await self.gate.wait()
        yield Piece(" word", 1)
        yield Ended(CallEnd.MODEL, 1)


async def crowd(requests: int, tenants: int) -> dict[str, float]:
    """CPU time a request to come in and to end, and memory of one that waits, with so many in flight at once."""
    reporting = telemetry.from_environment("scheduler", VERSION, scraped=True)
    settings = SchedulerSettings(
        backend="embedded", max_in_flight=requests, max_in_flight_tokens=10**12, max_tenant_in_flight=requests,
        tenant_requests_per_second=1e9, tenant_tokens_per_second=1e9,
    )  # fmt: skip
    held = GatedBackend()
    measured = MetricsObserver(reporting.meters, "m", "gated")
    observers = Observers([SpanObserver(), measured, Journal(settings.journal_requests)])
    pipeline = make_pipeline(settings, held, await held.limits(), NoPredictor(), observers, reporting.tracers)
    measured.watch(state_of(pipeline, held))
    inside = asyncio.Semaphore(0)

    async def request(generations: Generations, at: int) -> None:
        job = Job(str(at), "What is 2 + 2?", f"tenant-{at % tenants}", floor_tokens=0, cap_tokens=256)
        async for event in generations.stream(job):
            if isinstance(event, Allocation):
                inside.release()

    gc.collect()
    memory = resident_mb()
    async with asyncio.TaskGroup() as group:
        allocating = group.create_task(pipeline.allocator.run())
        generations = Generations(pipeline.generate, group)
        began = time.process_time()
        running = [group.create_task(request(generations, at)) for at in range(requests)]
        for _ in range(requests):
            await inside.acquire()
        came = time.process_time()
        waiting = resident_mb()
        held.gate.set()
        await asyncio.gather(*running)
        ended = time.process_time()
        allocating.cancel()
    reporting.shut_down()
    return {
        "in_us": 1e6 * (came - began) / requests,
        "out_us": 1e6 * (ended - came) / requests,
        "kb": 1024 * (waiting - memory) / requests,
    }


def apart(requests: int, tenants: int) -> dict[str, float]:
    """``crowd`` in a process of its own, since memory that was freed is not given back."""
    command = [sys.executable, "-m", "benchmarks.growth", f"--crowd={requests}", f"--tenants={tenants}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # this very program
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def exponent(costs: Mapping[int, float]) -> float:
    """The power of n by which a cost grows."""
    return float(np.polyfit(np.log(list(costs)), np.log(list(costs.values())), 1)[0])


async def models(counts: list[int], calls: int) -> dict[int, dict[str, float]]:
    """Start, memory and CPU time a call of a predictor with so many models."""
    found = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as scratch:
            for at in range(count):
                folder = Path(scratch) / f"model-{at}"
                shutil.copytree(SHIPPED_MODELS / "demo-text", folder)
                manifest = json.loads((folder / "manifest.json").read_text()) | {"name": folder.name}
                (folder / "manifest.json").write_text(json.dumps(manifest))
            began = time.perf_counter()
            arguments = ("predictor", f"--models={scratch}", "--default-model=model-0", "--reload-seconds=0")
            async with service(*arguments) as running, AsyncPredictorClient(running.address) as client:
                started = time.perf_counter() - began
                for at in range(calls // 4):
                    await client.predict(["What is 2 + 2?"], model=f"model-{at % count}")
                before = running.cpu_seconds()
                for at in range(calls):
                    await client.predict(["What is 2 + 2?"], model=f"model-{at % count}")
                cost = 1e3 * (running.cpu_seconds() - before) / calls
                found[count] = {"start_seconds": started, "memory_mb": running.memory_mb(), "cpu_ms_a_call": cost}
    return found


async def idle(rounds: int) -> dict[str, dict[str, float]]:
    """Seconds until a service listens, and its share of a core while nobody calls, with metrics on."""
    found: dict[str, dict[str, float]] = {}
    metrics = "--metrics-listen=127.0.0.1:0"
    async with backend() as url:
        for name, arguments in {
            "predictor": ("predictor", metrics),
            "scheduler": ("scheduler", "--backend=tgi", f"--backend-url={url}", metrics),
        }.items():
            starts, shares = [], []
            for _ in range(rounds):
                began = time.perf_counter()
                async with service(*arguments) as running:
                    starts.append(time.perf_counter() - began)
                    await asyncio.sleep(1)
                    before = running.cpu_seconds()
                    await asyncio.sleep(_IDLE_SECONDS)
                    shares.append((running.cpu_seconds() - before) / _IDLE_SECONDS)
                    memory = running.memory_mb()
            found[name] = {
                "start_seconds": statistics.median(starts),
                "idle_share_of_a_core": statistics.median(shares),
                "memory_mb": memory,
            }
    return found


def imports(rounds: int) -> dict[str, float]:
    """Seconds to import what a client, a scheduler and a predictor need, beyond an empty interpreter."""
    found = {}
    for name, code in {
        "nothing": "pass",
        "grpc": "import grpc",
        "client": "import predictive_scheduling",
        "scheduler": "import scheduler_service.server",
        "predictor": "import predictor_service.server",
    }.items():
        seconds = []
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603  # the code above
            seconds.append(time.perf_counter() - began)
        found[name] = statistics.median(seconds)
    return found


def draw(path: Path, found: dict[str, Any]) -> None:
    """Draw cost against requests and tenants."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, (kind, key, title, unit) in zip(
        axes,
        [
            ("requests", "us", "A request, by requests in flight", "µs CPU"),
            ("requests", "kb", "A request that waits", "KB"),
            ("tenants", "us", "A request of 20,000, by tenants", "µs CPU"),
        ],
        strict=True,
    ):
        sizes = [int(n) for n in found[kind]["measured"]]
        for line in ("in_us", "out_us") if key == "us" else ("kb",):
            costs = [found[kind]["measured"][n][line] for n in found[kind]["measured"]]
            axis.plot(sizes, costs, "o-", label={"in_us": "to come in", "out_us": "to end", "kb": "memory"}[line])
        axis.set(xscale="log", title=title, xlabel=kind, ylabel=unit)
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
    figure.savefig(path)


async def measure(rounds: int, counts: list[int]) -> dict[str, Any]:
    """Measure everything."""
    found: dict[str, Any] = {}
    by_requests = {n: _median([apart(n, 1) for _ in range(rounds)]) for n in counts}
    by_tenants = {n: _median([apart(20_000, n) for _ in range(rounds)]) for n in (1, 10, 100, 1_000, 10_000)}
    for kind, measured in (("requests", by_requests), ("tenants", by_tenants)):
        large = {n: one for n, one in measured.items() if n >= 100 or kind == "tenants"}
        found[kind] = {
            "measured": measured,
            "exponents": {key: exponent({n: one[key] for n, one in large.items()}) for key in ("in_us", "out_us")},
        }
    found["models"] = await models([1, 4, 16, 64], 200)
    found["idle"] = await idle(rounds)
    found["import_seconds"] = imports(5)
    return found


def _median(seen: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in seen) for key in seen[0]}


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--crowd", type=int, help="measure so many requests, and print the figures alone")
    parser.add_argument("--tenants", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, nargs="*", default=[1, 10, 100, 1_000, 10_000, 100_000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    if given.crowd:
        print(json.dumps(asyncio.run(crowd(given.crowd, given.tenants))))  # noqa: T201
        return
    found = asyncio.run(measure(given.rounds, given.requests))
    print(json.dumps(found, indent=1))  # noqa: T201
    keep(given, found, lambda path: draw(path, json.loads(json.dumps(found))))


if __name__ == "__main__":
    main()
