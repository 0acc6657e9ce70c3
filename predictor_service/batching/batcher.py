"""Runs a model's queue: takes batches, runs them off the event loop, hands results back.

Theory of operation. ``predict`` is called once for each RPC (requests on streams, which have no task of their own to
wait in, come by ``predict_now`` and ``enqueue``). It cuts the call's queries into groups of at most one
batch, puts them into the queue (``batch_queue``, which decides what runs next and when), and waits for the futures of
its groups. One task, ``run``, takes a batch whenever one is due, runs it in the model's only thread, and sets the
futures. While a batch runs, calls that come pile up and form the next batch; that is why batches fill under load
without any added delay. Two short cuts: a batch that is expected to take less than 0.3 ms runs on the event loop, and
a call that finds the batcher idle runs at once without the queue.

What always holds: one batch runs at a time; a call's groups enter the queue all or none (QueueFullError); a group runs
whole in one batch; results come back in the order of the queries. A graph that fails, fails the calls that share its
batch, and the next batch runs.

On cancellation a call cancels its futures. The queue drops groups whose future is done before they run; a group that
runs already is computed, and its result dropped. Cancelling ``run`` shuts the thread down without waiting for it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from predictor_service.artifact import Manifest
from predictor_service.batching.batch_queue import BatchQueue
from predictor_service.inputs.features import Query
from predictor_service.model import BatchResult, LoadedModel

# A batch that takes less than this runs on the event loop: a thread would cost about as much in hand-overs.
_SHORT_SECONDS = 0.0003


class RunTimes:
    """How long batches take, by their size: a running mean for each power of two of queries and of characters."""

    def __init__(self) -> None:
        """Start without measurements."""
        self._seconds: dict[tuple[int, int], float] = {}

    def expected(self, queries: Sequence[Query]) -> float:
        """Seconds that a batch may take; infinitely many as long as none of its size has run."""
        return self._seconds.get(_size(queries), math.inf)

    def learn(self, queries: Sequence[Query], seconds: float) -> None:
        """Note that a batch of ``queries`` took ``seconds``; recent batches count most."""
        size = _size(queries)
        known = self._seconds.get(size, seconds)
        self._seconds[size] = known + 0.1 * (seconds - known)


def _size(queries: Sequence[Query]) -> tuple[int, int]:
    return len(queries).bit_length(), sum(len(query.text) for query in queries).bit_length()


class QueueFullError(Exception):
    """More queries wait than the queue may hold."""


@dataclass(eq=False)
class _Group:
    """Queries of one call that run in one batch."""

    queries: Sequence[Query]
    result: asyncio.Future[tuple[BatchResult, float]]

    @property
    def size(self) -> int:
        return len(self.queries)

    @property
    def abandoned(self) -> bool:
        return self.result.done()


@dataclass(frozen=True, eq=False)
class Predicted:
    """The predictions of one call, in order; ``queue_seconds`` is its slowest group's wait."""

    result: BatchResult
    queue_seconds: float


class Batcher:
    """Micro-batches the queries of concurrent calls for one model. ``run`` must be running."""

    def __init__(
        self,
        model: LoadedModel,
        queue: BatchQueue[_Group],
        on_batch: Callable[[Manifest, BatchResult], None] = lambda *_: None,
    ) -> None:
        """Batch for ``model`` by ``queue``'s rules; ``on_batch`` is called after every batch."""
        self._on_batch = on_batch
        self._times = RunTimes()
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
        """Return the predictions of checked queries; a cancelled call leaves the queue.

        Raises QueueFullError, and ModelFailedError where the graph fails: then the other calls of the batch fail, too.
        """
        if (predicted := self.predict_now(queries)) is not None:
            return predicted
        size = self._queue.max_batch
        groups = self._enqueue([queries[at : at + size] for at in range(0, len(queries), size)])
        try:
            results = [await group.result for group in groups]
        finally:
            for group in groups:
                group.result.cancel()
        parts, waits = zip(*results, strict=True)
        return Predicted(_joined(list(parts)), max(waits))

    def predict_now(self, queries: Sequence[Query]) -> Predicted | None:
        """Return the predictions of checked queries where they need not queue, else ``None``.

        Raises ModelFailedError.
        """
        return Predicted(self._run_here(queries), 0.0) if self._may_run_at_once(queries) else None

    def enqueue(self, queries: Sequence[Query]) -> asyncio.Future[tuple[BatchResult, float]]:
        """Queue checked queries, at most ``max_batch_size``: they run in the next batch. Raises QueueFullError.

        The future has their result and their wait in seconds, or ModelFailedError; cancelled, they leave the queue.
        """
        return self._enqueue([queries])[0].result

    def _enqueue(self, parts: Sequence[Sequence[Query]]) -> list[_Group]:
        loop = asyncio.get_running_loop()
        groups = [_Group(part, loop.create_future()) for part in parts]
        if not self._queue.offer(groups, time.monotonic()):
            raise QueueFullError(f"{len(self._queue)} queries wait already")
        self._arrived.set()
        return groups

    def _may_run_at_once(self, queries: Sequence[Query]) -> bool:
        """Whether a call need not queue: nothing waits or runs, no delay is set, and it is one short batch."""
        idle = not self.busy and self._queue.max_delay == 0
        return idle and len(queries) <= self.max_batch_size and self._times.expected(queries) < _SHORT_SECONDS

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
        try:
            if self._times.expected(queries) < _SHORT_SECONDS:
                result = self._run_here(queries)
            else:
                result = await asyncio.get_running_loop().run_in_executor(self._thread, self.model.run, queries)
                self._learn(queries, result)
        except Exception as error:  # a batch that fails must fail its calls, not the loop that serves all others
            for _, group in batch:
                if not group.abandoned:
                    group.result.set_exception(error)
            return
        at = 0
        for came, group in batch:
            if not group.abandoned:
                group.result.set_result((_part(result, at, at + group.size), started - came))
            at += group.size

    def _run_here(self, queries: Sequence[Query]) -> BatchResult:
        """Run a short batch on the event loop: to wake a thread and be woken by it would take longer."""
        result = self.model.run(queries)
        self._learn(queries, result)
        return result

    def _learn(self, queries: Sequence[Query], result: BatchResult) -> None:
        self._times.learn(queries, result.tokenize_seconds + result.inference_seconds)
        self._on_batch(self.model.manifest, result)


def _part(result: BatchResult, start: int, end: int) -> BatchResult:
    strange = result.unfamiliarity
    return BatchResult(
        result.curves[start:end],
        None if result.difficulty is None else result.difficulty[start:end],
        result.tokenize_seconds,
        result.inference_seconds,
        result.abstained[start:end],
        None if result.used is None else result.used[start:end],
        None if strange is None else strange[start:end],
    )


def _joined(parts: list[BatchResult]) -> BatchResult:
    if len(parts) == 1:
        return parts[0]
    difficulty = None if parts[0].difficulty is None else np.concatenate([part.difficulty for part in parts])
    return BatchResult(
        np.concatenate([part.curves for part in parts]),
        difficulty,
        sum(part.tokenize_seconds for part in parts),
        sum(part.inference_seconds for part in parts),
        np.concatenate([part.abstained for part in parts]),
        None if parts[0].used is None else np.concatenate([part.used for part in parts]),
        None if parts[0].unfamiliarity is None else np.concatenate([part.unfamiliarity for part in parts]),
    )
