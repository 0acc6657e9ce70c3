"""Runs a model's queue: takes batches, runs them off the event loop, hands results back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from predictor_service.batch_queue import BatchQueue
from predictor_service.features import Query
from predictor_service.model import BatchResult, LoadedModel


class QueueFullError(Exception):
    """More queries wait than the queue may hold."""


@dataclass(eq=False)
class _Group:
    """Queries of one call that run in one batch."""

    queries: Sequence[Query]
    result: asyncio.Future[tuple[BatchResult, float, int]]

    @property
    def size(self) -> int:
        return len(self.queries)

    @property
    def abandoned(self) -> bool:
        return self.result.done()


@dataclass(frozen=True, eq=False)
class Predicted:
    """The predictions of one call, in order; ``queue_seconds`` is its slowest group's wait.

    ``batch_size``: queries of the largest batch that it was part of.
    """

    result: BatchResult
    queue_seconds: float
    batch_size: int


class Batcher:
    """Micro-batches the queries of concurrent calls for one model. ``run`` must be running."""

    def __init__(self, model: LoadedModel, queue: BatchQueue[_Group]) -> None:
        """Batch for ``model`` by ``queue``'s rules."""
        self.model = model
        self._queue = queue
        self.max_batch_size = queue.max_batch
        self._arrived = asyncio.Event()
        self._running = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"model-{model.name}")

    @property
    def busy(self) -> bool:
        """Whether queries wait or run."""
        return self._running or len(self._queue) > 0

    @property
    def waiting(self) -> int:
        """Queries that wait."""
        return len(self._queue)

    async def predict(self, queries: Sequence[Query]) -> Predicted:
        """Return the predictions of checked queries. Raises QueueFullError; a cancelled call leaves the queue."""
        loop = asyncio.get_running_loop()
        size = self._queue.max_batch
        groups = [_Group(queries[at : at + size], loop.create_future()) for at in range(0, len(queries), size)]
        if not self._queue.offer(groups, time.monotonic()):
            raise QueueFullError(f"{len(self._queue)} queries wait already")
        self._arrived.set()
        try:
            results = [await group.result for group in groups]
        finally:
            for group in groups:
                group.result.cancel()
        parts, waits, sizes = zip(*results, strict=True)
        return Predicted(_joined(list(parts)), max(waits), max(sizes))

    async def run(self) -> None:
        """Run batches until cancelled."""
        try:
            while True:
                await self._wait_for_batch()
                batch = self._queue.take()
                if batch:
                    self._running = True
                    await self._run_batch(batch)
                    self._running = False
        finally:
            self._thread.shutdown(wait=False)

    async def _wait_for_batch(self) -> None:
        while True:
            self._arrived.clear()
            due = self._queue.due_at()
            wait = None if due is None else due - time.monotonic()
            if wait is not None and wait <= 0:
                return
            try:  # wait_for would lose a cancellation that comes together with an arrival (Python 3.11)
                async with asyncio.timeout(wait):
                    await self._arrived.wait()
            except TimeoutError:
                return

    async def _run_batch(self, batch: list[tuple[float, _Group]]) -> None:
        started = time.monotonic()
        queries = [query for _, group in batch for query in group.queries]
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._thread, self.model.run, queries)
        except Exception as error:  # a batch that fails must fail its calls, not the loop that serves all others
            for _, group in batch:
                if not group.abandoned:
                    group.result.set_exception(error)
            return
        at = 0
        for came, group in batch:
            if not group.abandoned:
                group.result.set_result((_part(result, at, at + group.size), started - came, len(queries)))
            at += group.size


def _part(result: BatchResult, start: int, end: int) -> BatchResult:
    difficulty = None if result.difficulty is None else result.difficulty[start:end]
    return BatchResult(result.curves[start:end], difficulty, result.tokenize_seconds, result.inference_seconds)


def _joined(parts: list[BatchResult]) -> BatchResult:
    if len(parts) == 1:
        return parts[0]
    difficulty = None if parts[0].difficulty is None else np.concatenate([part.difficulty for part in parts])
    return BatchResult(
        np.concatenate([part.curves for part in parts]),
        difficulty,
        sum(part.tokenize_seconds for part in parts),
        sum(part.inference_seconds for part in parts),
    )
