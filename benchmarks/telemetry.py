"""What telemetry costs a request: CPU time of the same requests with and without, interleaved in one run.

    python -m benchmarks.telemetry --json out/bench/telemetry.json

The scheduler and its client share this process, so the figures are of both; the differences are the telemetry's. Spans
go to an exporter that drops them: what sending costs is the SDK's thread's, and the collector's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from benchmarks.fast_backend import FastBackend
from predictive_scheduling import AsyncSchedulerClient
from predictive_scheduling.serving import Serving
from predictive_scheduling.telemetry import Telemetry
from scheduler_service import server
from scheduler_service.settings import SchedulerSettings

_WORKERS = 16


class _Dropped(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def _traced(share: float) -> TracerProvider:
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)))
    provider.add_span_processor(BatchSpanProcessor(_Dropped()))
    return provider


def _metered() -> MeterProvider:
    return MeterProvider([InMemoryMetricReader()])


SETUPS: dict[str, Callable[[], Telemetry]] = {
    "off": Telemetry,
    "metrics": lambda: Telemetry(meters=_metered()),
    "metrics, 1 % of traces": lambda: Telemetry(_traced(0.01), _metered()),
    "metrics, all traces": lambda: Telemetry(_traced(1.0), _metered()),
}


async def measure(telemetry: Telemetry, requests: int) -> float:
    """CPU seconds a request."""
    started: asyncio.Future[Serving] = asyncio.get_running_loop().create_future()
    settings = SchedulerSettings(backend="embedded", tokens_per_query=64, policy="price", log_level="error")
    async with asyncio.TaskGroup() as group:
        group.create_task(
            server.serve(settings, backend=FastBackend(), reporting=telemetry, on_started=started.set_result)
        )
        serving = await started
        async with AsyncSchedulerClient(f"127.0.0.1:{serving.port}") as client:

            async def worker(count: int) -> None:
                for at in range(count):
                    await client.complete(f"question {at}")

            async def run(count: int) -> None:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(_WORKERS):
                        workers.create_task(worker(count // _WORKERS))

            await run(requests // 4)  # warm
            before = time.process_time()
            await run(requests)
            took = time.process_time() - before
        serving.draining.set()
    return took / requests


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in SETUPS}
    for _ in range(given.rounds):
        for name, setup in SETUPS.items():
            seconds[name].append(asyncio.run(measure(setup(), given.requests)))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:24} {median * 1e6:7.0f} µs a request, {(median - medians['off']) * 1e6:+6.0f}")  # noqa: T201
    if given.json:
        machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        given.json.write_text(json.dumps({"machine": machine, "rounds": seconds, "medians": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
