"""Sends questions whether or not a scheduler keeps up, measures what an engine can do, and watches a scheduler."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle

import aiohttp
import grpc.aio

from exporters.demo.tasks import Task
from predictive_scheduling.client import AsyncSchedulerClient
from predictive_scheduling_cli.demo.engines import EngineFailedError
from predictive_scheduling_cli.demo.load import Asked, Capacity
from predictive_scheduling_cli.demo.runner import Result, ask

_LONGEST_SECONDS = 900.0  # that an answer may take: fixed budgets under twice the load take minutes
_GAUGE = re.compile(r"^predictive_scheduling_(\w+)(?:\{[^\n]*\})? (\S+)", re.MULTILINE)


async def measure_capacity(address: str, tasks: Sequence[Task], slots: int, seconds: float) -> Capacity:
    """Keep ``slots`` requests running; the first third of the ``seconds`` does not count.

    Raises ``grpc.aio.AioRpcError``, and EngineFailedError where nothing was answered in time.
    """
    began, numbers = time.perf_counter(), count()
    counts_from, ends = began + seconds / 3, began + seconds
    ended: list[tuple[float, Result]] = []
    async with AsyncSchedulerClient(address, timeout=_LONGEST_SECONDS) as client:

        async def caller() -> None:
            while time.perf_counter() < ends:
                at = next(numbers)
                result = await ask(client, tasks[at % len(tasks)], seed=at, request_id=f"capacity-{at}")
                ended.append((time.perf_counter(), result))

        async with asyncio.TaskGroup() as group:
            for _ in range(slots):
                group.create_task(caller())
    counted = [result for at, result in ended if counts_from <= at < ends]
    if not counted:
        raise EngineFailedError(f"the engine answered no question within {seconds:g} s; is the machine busy?")
    return Capacity(len(counted) / (ends - counts_from), [result.seconds for result in counted])


async def offer(
    address: str, tasks: Sequence[Task], arrivals: Sequence[float], on_asked: Callable[[Asked], None]
) -> list[Asked]:
    """Send a question at each of the ``arrivals`` (rising seconds), whatever became of those before.

    Begins again with the first task after the last one. Returns what became of them, in order, once all have ended.
    Raises ``grpc.aio.AioRpcError`` for any failure but RESOURCE_EXHAUSTED, which is a refusal.
    """
    began = time.perf_counter()
    async with AsyncSchedulerClient(address, timeout=_LONGEST_SECONDS) as client:

        async def one(number: int, at: float, task: Task) -> Asked:
            try:
                result = await ask(client, task, seed=number, request_id=f"load-{number}")
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                result = None
            asked = Asked(at, task, result)
            on_asked(asked)
            return asked

        sent = []
        async with asyncio.TaskGroup() as group:
            for number, (at, task) in enumerate(zip(arrivals, cycle(tasks), strict=False)):
                await asyncio.sleep(began + at - time.perf_counter())
                sent.append(group.create_task(one(number, at, task)))
        return [task.result() for task in sent]


@dataclass(frozen=True)
class Fleet:
    """What a scheduler said of itself ``at`` seconds after the watch began; ``None`` where it has no objective.

    ``price``: accuracy per token. ``load``: what the largest mean budget would take of the fleet. ``refused``: the
    share that must be refused.
    """

    at: float
    in_flight: float
    price: float
    mean_budget: float | None
    load: float | None
    refused: float | None


def fleet_of(page: str, at: float) -> Fleet:
    """What a page of the scheduler's metrics says of the fleet."""
    found: Mapping[str, float] = {name: float(value) for name, value in _GAUGE.findall(page)}
    return Fleet(
        at,
        found.get("in_flight", 0.0),
        found.get("price_ratio", 0.0),
        found.get("mean_budget"),
        found.get("load_ratio"),
        found.get("refused_share_ratio"),
    )


@dataclass
class Watch:
    """Looks at a scheduler's metrics once a second. ``page``: their ``host:port``; ``seen``: what it said so far."""

    page: str
    seen: list[Fleet] = field(default_factory=list)

    async def run(self) -> None:
        """Look until cancelled. A look that fails is left out: the next one comes a second later."""
        began = time.perf_counter()
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            while True:
                try:
                    async with session.get(f"http://{self.page}/metrics") as reply:
                        self.seen.append(fleet_of(await reply.text(), time.perf_counter() - began))
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(1.0)
