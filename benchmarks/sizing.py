"""What a request costs each service, for sizing: CPU time and memory of the services as processes.

    python -m benchmarks.sizing --json out/bench/sizing.json

Predictor and scheduler run by the command line, as they are deployed, with metrics; the backend here writes as fast as
it is read. CPU time is the process's own (/proc), so callers and backend do not count. Medians of rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from predictive_scheduling import AsyncPredictorClient, AsyncSchedulerClient

_TICKS = os.sysconf("SC_CLK_TCK")
_CALLERS = 16


@dataclass
class Service:
    """A running service."""

    address: str
    process: asyncio.subprocess.Process

    def cpu_seconds(self) -> float:
        """CPU time that it has used, of all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_mb(self) -> float:
        """Resident memory."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0.0


@asynccontextmanager
async def service(*arguments: str) -> AsyncIterator[Service]:
    """Run a service until the block ends."""
    command = (sys.executable, "-m", "predictive_scheduling_cli", *arguments, "--listen=127.0.0.1:0")
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    if process.stderr is None:
        raise RuntimeError("no log")
    port = ""
    async for line in process.stderr:
        if b"listening on port" in line:
            port = line.split()[-1].decode()
            break
    async with asyncio.TaskGroup() as group:
        group.create_task(process.stderr.read())
        try:
            yield Service(f"127.0.0.1:{port}", process)
        finally:
            process.terminate()
            await process.wait()


@asynccontextmanager
async def backend() -> AsyncIterator[str]:
    """A TGI that writes tokens eight at a time, without end token."""
    token = b'data: {"token":{"id":1,"text":" word","special":false},"generated_text":null,"details":null}\n\n'
    last = token.replace(
        b'"generated_text":null,"details":null', b'"generated_text":"","details":{"finish_reason":"length"}'
    )

    async def info(_: web.Request) -> web.Response:
        return web.json_response({"model_id": "m", "max_total_tokens": 8192, "max_concurrent_requests": 512})

    async def stream(request: web.Request) -> web.StreamResponse:
        count = (await request.json())["parameters"]["max_new_tokens"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for at in range(0, count - 1, 8):
            await response.write(token * min(8, count - 1 - at))
        await response.write(last)
        return response

    app = web.Application()
    app.router.add_get("/health", info)
    app.router.add_get("/info", info)
    app.router.add_post("/generate_stream", stream)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def at_once(count: int, call: Any) -> None:
    """Make ``count`` calls, some at a time."""

    async def worker(first: int) -> None:
        for at in range(first, count, _CALLERS):
            await call(at)

    async with asyncio.TaskGroup() as group:
        for first in range(_CALLERS):
            group.create_task(worker(first))


async def predictor_costs(rounds: int, calls: int) -> dict[str, Any]:
    """CPU time of a query, one a call, and 32 a call."""
    found: dict[str, Any] = {}
    async with (
        service("predictor", "--metrics-listen=127.0.0.1:0") as running,
        AsyncPredictorClient(running.address) as client,
    ):
        for batch in (1, 32):

            async def call(at: int, batch: int = batch) -> None:
                await client.predict([f"What is {at} + {n}, and what is half of it?" for n in range(batch)])

            await at_once(calls // 4, call)
            costs = []
            for _ in range(rounds):
                before = running.cpu_seconds()
                await at_once(calls, call)
                costs.append((running.cpu_seconds() - before) / (calls * batch))
            found[f"cpu_ms_a_query_{batch}_a_call"] = 1e3 * statistics.median(costs)
        found["memory_mb"] = running.memory_mb()
    return found


async def scheduler_costs(rounds: int, calls: int) -> dict[str, Any]:
    """CPU time of a request by the tokens that it generates; the rest of the two is a token's."""
    found: dict[str, Any] = {}
    async with backend() as url, service("predictor") as predictor:
        flags = (
            f"--backend-url={url}",
            f"--predictor={predictor.address}",
            "--tokens-per-query=512",
            "--cap-tokens=512",
        )
        metrics = "--metrics-listen=127.0.0.1:0"
        async with (
            service("scheduler", "--backend=tgi", metrics, "--floor-tokens=0", "--answer-tokens=16", *flags) as running,
            AsyncSchedulerClient(running.address) as client,
        ):
            costs: dict[int, list[float]] = {16: [], 528: []}
            for at_round in range(rounds + 1):  # the first warms up
                for tokens, measured in costs.items():

                    async def call(at: int, tokens: int = tokens, at_round: int = at_round) -> None:
                        limits = {"min_reasoning_tokens": tokens - 16, "max_reasoning_tokens": tokens - 16}
                        async for event in client.generate(f"question {at_round} {tokens} {at}", **limits):
                            last = event
                        used = last.usage.reasoning_tokens + last.usage.answer_tokens
                        if used != tokens:
                            raise RuntimeError(f"{used} tokens were generated, not {tokens}")

                    before = running.cpu_seconds()
                    await at_once(calls, call)
                    if at_round:
                        measured.append((running.cpu_seconds() - before) / calls)
            short, long = (1e3 * statistics.median(costs[tokens]) for tokens in (16, 528))
            found = {
                "cpu_ms_a_request": short - 16 * (long - short) / 512,
                "cpu_us_a_token": 1e3 * (long - short) / 512,
            }
            found["cpu_ms_a_request_of_16_tokens"], found["cpu_ms_a_request_of_528_tokens"] = short, long
            found["memory_mb"] = running.memory_mb()
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = {
        "predictor": asyncio.run(predictor_costs(given.rounds, given.calls)),
        "scheduler": asyncio.run(scheduler_costs(given.rounds, given.calls)),
    }
    print(json.dumps(found, indent=1))  # noqa: T201
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
