"""Which thread a batch runs on, and that calls are answered in order whichever it is."""

import asyncio
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest

from predictor_service.batching.batch_queue import BatchQueue
from predictor_service.batching.batcher import Batcher, RunTimes
from predictor_service.inputs.features import Query
from predictor_service.model import BatchResult


class TimedModel:
    """Answers each query by the number in its text, and says that it took ``seconds``."""

    name, manifest = "timed", None

    def __init__(self, seconds):
        self.seconds = seconds
        self.threads = []
        self.fails = False
        self.largest = 0

    def run(self, queries):
        self.threads.append(threading.current_thread())
        self.largest = max(self.largest, len(queries))
        if self.fails:
            raise ValueError("broken")
        curves = np.array([[float(query.text)] for query in queries], np.float32)
        return BatchResult(curves, None, 0.0, self.seconds, np.zeros(len(curves), np.int8))


@asynccontextmanager
async def running(model, *, delay=0.0):
    batcher = Batcher(model, BatchQueue(4, delay, 1000))
    task = asyncio.create_task(batcher.run())
    try:
        yield batcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(batcher, numbers):
    predicted = await batcher.predict([Query(str(number)) for number in numbers])
    return [float(row[0]) for row in predicted.result.curves]


@pytest.mark.parametrize("delay", [0.0, 0.001])
async def test_short_batches_run_on_the_loop_once_one_was_measured(delay):
    model = TimedModel(0.0001)
    async with running(model, delay=delay) as batcher:
        for number in range(3):
            assert await ask(batcher, [number]) == [number]
    here = threading.main_thread()
    assert [thread is here for thread in model.threads] == [False, True, True]


async def test_long_batches_run_in_a_thread():
    model = TimedModel(0.01)
    async with running(model) as batcher:
        for number in range(3):
            assert await ask(batcher, [number]) == [number]
    assert threading.main_thread() not in model.threads


@pytest.mark.parametrize("seconds", [0.0001, 0.01])
async def test_concurrent_calls_of_any_size_get_their_own_answers(seconds):
    model = TimedModel(seconds)
    async with running(model) as batcher:
        asked = [list(range(first, first + 1 + first % 7)) for first in range(40)]
        for _ in range(2):
            assert await asyncio.gather(*(ask(batcher, numbers) for numbers in asked)) == asked
        for numbers in asked:
            assert await ask(batcher, numbers) == numbers
    assert model.largest == 4


@pytest.mark.parametrize("seconds", [0.0001, 0.01])
async def test_a_batch_that_fails_fails_its_call_and_no_other(seconds):
    model = TimedModel(seconds)
    async with running(model) as batcher:
        await ask(batcher, [1])
        model.fails = True
        with pytest.raises(ValueError, match="broken"):
            await ask(batcher, [2])
        model.fails = False
        assert await ask(batcher, [3]) == [3]


def test_run_times_are_told_apart_by_queries_and_characters():
    times = RunTimes()
    one, many, long = [Query("a")], [Query("a")] * 9, [Query("a" * 500)]
    assert times.expected(one) == float("inf")
    times.learn(one, 0.001)
    assert times.expected(one) == 0.001
    assert times.expected(many) == times.expected(long) == float("inf")
    for _ in range(100):
        times.learn(one, 0.002)
    assert times.expected(one) == pytest.approx(0.002, rel=0.01)
