"""A soak: minutes of traffic with cancellations, errors and slow readers, after which nothing may have grown.

    python -m tests.soak --minutes 10

Predictor and scheduler run as processes of their own, as they are deployed; the backend is TGI's stand-in in this one.
Every ten seconds their resident memory, open files and threads are read; the first third warms up. Exit code 1 where
memory grows by more than 2 MB a minute, files or threads are left, a call ends with an undocumented status, or the
ledger does not balance. Too long for CI; ``make soak`` runs it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import linear_regression

import grpc
import grpc.aio

from benchmarks.processes import Service, service
from predictive_scheduling import AsyncSchedulerClient
from tests.integration.running import DOCUMENTED
from tests.standins.tgi import TgiStandIn

EVERY_SECONDS = 10.0
MOST_GROWTH = 2.0  # MB a minute


def script(prompt: str) -> list[str]:
    """Writes between 1 and 200 words, by the prompt; cut short, it answers 7."""
    if prompt.endswith("Final answer:"):
        return [" 7", "\n\n"]
    return [*["word "] * (1 + hash(prompt) % 200), "\n", "Final", " answer", ":", " 42", "\n\n"]


def usage(service: Service) -> dict[str, float]:
    """A process's resident memory (MB), open files and threads."""
    folder = Path(f"/proc/{service.process.pid}")
    return {
        "memory_mb": service.memory_mb(),
        "files": len(list((folder / "fd").iterdir())),
        "threads": len(list((folder / "task").iterdir())),
    }


async def traffic(client: AsyncSchedulerClient, until: float, ended: Counter[str], rng: random.Random) -> None:
    """One caller: most read to the end, some leave, some read slowly, some have short deadlines."""
    while time.monotonic() < until:
        kind = rng.random()
        job = {"request_id": f"r{rng.randrange(50)}"} if kind > 0.95 else {}
        try:
            pieces = 0
            async for _ in client.generate(f"question {rng.random()}", timeout=0.05 if kind < 0.05 else 30, **job):
                pieces += 1
                if 0.05 < kind < 0.15 and pieces > 3:
                    ended["left"] += 1
                    break
                if 0.15 < kind < 0.2:
                    await asyncio.sleep(0.01)
            else:
                ended["served"] += 1
        except grpc.aio.AioRpcError as error:
            ended[error.code().name] += 1
            if error.code() not in DOCUMENTED:
                raise


async def soak(minutes: float, callers: int) -> int:
    """Run; returns the exit code."""
    rng, ended, samples = random.Random(0), Counter[str](), {"predictor": [], "scheduler": []}
    async with (
        TgiStandIn(script, token_seconds=0.0005) as tgi,
        service("predictor") as predictor,
        service(
            "scheduler", "--backend=tgi", f"--backend-url={tgi.url}", f"--predictor={predictor.address}",
            "--tokens-per-query=64", "--max-pending=100", "--predictor-cache=1000",
        ) as scheduler,
        AsyncSchedulerClient(scheduler.address) as client,
    ):  # fmt: skip
        running = {"predictor": predictor, "scheduler": scheduler}
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(traffic(client, started + minutes * 60, ended, rng))
            while (now := time.monotonic() - started) < minutes * 60:
                for name, one in running.items():
                    samples[name].append({"seconds": now, **usage(one)})
                tgi.requests.clear()
                tgi.headers.clear()
                await asyncio.sleep(EVERY_SECONDS)
        await asyncio.sleep(2.0)
        budget = await client.budget()
        after = {name: usage(one) for name, one in running.items()}
    return report(minutes, ended, samples, after, budget)


def report(minutes, ended, samples, after, budget) -> int:
    """Print what was seen; returns 1 where something grew."""
    faults = []
    for name, seen in samples.items():
        steady = seen[len(seen) // 3 :]
        slope = linear_regression([one["seconds"] / 60 for one in steady], [one["memory_mb"] for one in steady]).slope
        print(f"{name}: {steady[0]['memory_mb']:.0f} → {steady[-1]['memory_mb']:.0f} MB, {slope:+.2f} MB a minute")  # noqa: T201
        if slope > MOST_GROWTH:
            faults.append(f"{name}: memory grows by {slope:.2f} MB a minute")
        faults += [
            f"{name}: {after[name][what]:.0f} {what} are left"
            for what in ("files", "threads")
            if after[name][what] > max(one[what] for one in seen[:3]) + 5
        ]
    if budget.reserved_tokens or budget.granted_tokens != budget.used_tokens + budget.returned_tokens:
        faults.append(f"the ledger does not balance: {budget}")
    if not ended["served"]:
        faults.append("nothing was served")
    print(json.dumps({"minutes": minutes, "ended": ended, "after": after, "faults": faults}))  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--callers", type=int, default=24)
    given = parser.parse_args()
    sys.exit(asyncio.run(soak(given.minutes, given.callers)))
