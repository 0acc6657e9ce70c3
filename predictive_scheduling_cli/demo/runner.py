"""Sends the questions to a scheduler and keeps what came of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc.aio

from exporters.demo.tasks import Task
from exporters.measure.checkers import exact
from predictive_scheduling.client import AsyncSchedulerClient
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb

_REPORTS_SECONDS = 1.0


@dataclass(frozen=True)
class Result:
    """One question's outcome. Tokens, seconds; ``answer``: what the model said after its reasoning."""

    task: Task
    answer: str
    right: bool
    allocation: pb.Allocation
    usage: pb.Usage
    seconds: float


async def ask(client: AsyncSchedulerClient, task: Task, *, seed: int, request_id: str) -> Result:
    """Ask one question, greedily, and tell the scheduler whether its answer was right.

    Raises ``grpc.aio.AioRpcError``.
    """
    started = time.perf_counter()
    sampling = pb.Sampling(temperature=0.0, seed=seed)
    answer, allocation, usage = "", pb.Allocation(), pb.Usage()
    async for event in client.generate(task.question, sampling=sampling, request_id=request_id):
        match event.WhichOneof("event"):
            case "allocation":
                allocation = event.allocation
            case "text" if event.text.kind == pb.TEXT_KIND_ANSWER:
                answer += event.text.text
            case "usage":
                usage = event.usage
    right = exact(task.answer, answer)
    result = Result(task, answer.strip(), right, allocation, usage, time.perf_counter() - started)
    await client.report_outcome(allocation.request_id, float(right))
    return result


async def ask_all(
    address: str,
    tasks: Sequence[Task],
    *,
    on_result: Callable[[Result], None],
    interceptors: list[grpc.aio.ClientInterceptor],
    seed: int,
) -> list[Result]:
    """Send all questions at once; returns their results in order, and tells the scheduler which were right.

    Every question samples with its own seed, the same under every policy. Raises ``grpc.aio.AioRpcError``.
    """
    async with AsyncSchedulerClient(address, timeout=600.0, interceptors=interceptors) as client:

        async def one(at: int, task: Task) -> Result:
            result = await ask(client, task, seed=seed + at, request_id=f"demo-{at}")
            on_result(result)
            return result

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(one(at, task)) for at, task in enumerate(tasks)]
        return [task.result() for task in asked]


async def wasted_tokens(address: str, results: Sequence[Result]) -> list[int]:
    """Tokens of each question that its engine generated and nobody read, as far as the engine reports them."""
    await asyncio.sleep(_REPORTS_SECONDS)  # the last reports may come after the answers
    async with AsyncSchedulerClient(address) as client:
        asked = [pb.GetRequestRequest(request_id=result.allocation.request_id) for result in results]
        records = [(await client.stub.GetRequest(request)).request for request in asked]
    return [record.wasted_tokens for record in records if record.HasField("wasted_tokens")]
