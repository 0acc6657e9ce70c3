"""What a request costs each service, for sizing: CPU time and memory of the services as processes.

    python -m benchmarks.sizing --json out/bench/sizing.json

Predictor and scheduler run by the command line, as they are deployed, with metrics; the backend here writes as fast as
it is read. CPU time is the process's own (/proc), so callers and backend do not count. Medians of rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.callers import at_once
from benchmarks.processes import backend, service
from predictive_scheduling import AsyncPredictorClient, AsyncSchedulerClient

_CALLERS = 16


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

            await at_once(calls // 4, _CALLERS, call)
            costs = []
            for _ in range(rounds):
                before = running.cpu_seconds()
                await at_once(calls, _CALLERS, call)
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
                    await at_once(calls, _CALLERS, call)
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
