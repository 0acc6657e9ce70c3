"""A stream that is read beside a decision loses nothing, doubles nothing, keeps its order, and is closed."""

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.generation.read_ahead import ReadAhead, cancelled


async def until(ahead, decision, may_read, held=None):
    """Return the decision; what came before it is added to ``held``."""
    deciding = asyncio.ensure_future(decision)
    try:
        async for item in ahead.meanwhile(deciding, may_read):
            if held is not None:
                held.append(item)
        return deciding.result()
    finally:
        await cancelled(deciding)


class BrokenError(Exception):
    """What a stream raises."""


class Source:
    """A stream of numbers: each after some turns of the loop; then an end, or an error. Knows how it was left."""

    def __init__(self, delays, *, fails=False):
        self.delays, self.fails = delays, fails
        self.asked, self.given, self.closed = 0, 0, False

    async def stream(self):
        try:
            for at, delay in enumerate(self.delays):
                self.asked += 1
                for _ in range(delay):
                    await asyncio.sleep(0)
                self.given += 1
                yield at
            if self.fails:
                raise BrokenError
        finally:
            self.closed = True


async def turns(count, result="decided"):
    for _ in range(count):
        await asyncio.sleep(0)
    if isinstance(result, Exception):
        raise result
    return result


DELAYS = st.lists(st.integers(0, 4), max_size=8)


@given(DELAYS, st.integers(0, 20), st.integers(0, 10), st.booleans())
def test_under_any_order_of_events_the_reader_gets_every_item_once_in_order(delays, decides, most, fails):
    async def run():
        source = Source(delays, fails=fails)
        got = []
        async with aclosing(ReadAhead(source.stream())) as ahead:
            try:
                assert await until(ahead, turns(decides), lambda: source.given < most, got) == "decided"
                async with aclosing(ahead.rest()) as rest:
                    while (item := await anext(rest, None)) is not None:
                        got.append(item)
                failed = False
            except BrokenError:
                failed = True
        assert source.closed or not source.asked
        assert failed == fails
        assert got == list(range(len(delays)))

    asyncio.run(run())


@given(DELAYS, st.integers(0, 20), st.integers(0, 4))
def test_no_more_is_asked_for_than_may_be_read(delays, decides, most):
    async def run():
        source = Source(delays)
        async with aclosing(ReadAhead(source.stream())) as ahead:
            await until(ahead, turns(decides), lambda: source.given < most)
            assert source.asked <= most

    asyncio.run(run())


@given(DELAYS, st.integers(0, 20), st.integers(0, 30), st.booleans())
def test_a_reader_that_is_cancelled_at_any_turn_leaves_everything_closed(delays, decides, leaves, fails):
    async def run():
        source, decided, got = Source(delays, fails=fails), [], []

        async def decide():
            try:
                await turns(decides)
            finally:
                decided.append(True)

        async def read():
            async with aclosing(ReadAhead(source.stream())) as ahead:
                await until(ahead, decide(), lambda: True, got)
                async with aclosing(ahead.rest()) as rest:
                    async for item in rest:
                        got.append(item)
                        await asyncio.sleep(0)

        reading = asyncio.ensure_future(read())
        await turns(leaves)
        reading.cancel()
        (outcome,) = await asyncio.gather(reading, return_exceptions=True)
        assert outcome is None or isinstance(outcome, asyncio.CancelledError | BrokenError)
        assert source.closed or not source.asked
        assert decided or not source.asked
        assert got == list(range(len(got)))
        assert asyncio.all_tasks() == {asyncio.current_task()}, "something still runs"

    asyncio.run(run())


@given(DELAYS, st.integers(0, 8))
def test_a_reader_that_leaves_after_some_items_closes_the_stream(delays, takes):
    async def run():
        source = Source(delays)
        async with aclosing(ReadAhead(source.stream())) as ahead:
            got = []
            await until(ahead, turns(3), lambda: source.given < 2, got)
            async with aclosing(ahead.rest()) as rest:
                async for item in rest:
                    if len(got) >= takes:
                        break
                    got.append(item)
        assert source.closed or not source.asked
        assert got == list(range(len(got)))
        assert len(got) >= min(takes, len(delays))

    asyncio.run(run())


async def test_the_first_item_is_told_of_and_so_is_an_end_without_one():
    for delays in ([1], []):
        ahead = ReadAhead(Source(delays).stream())
        await asyncio.wait_for(until(ahead, ahead.first.wait(), lambda: True), 60)
        await ahead.aclose()


async def test_a_decision_is_not_lost_to_an_error_that_comes_in_the_same_turn():
    """What was decided may hold a reservation; the reader hears of the error next."""
    both = asyncio.Event()

    async def stream():
        await both.wait()
        raise BrokenError
        yield

    async def decide():
        await both.wait()
        return "decided"

    async with aclosing(ReadAhead(stream())) as ahead:
        asyncio.get_running_loop().call_later(0.01, both.set)
        assert await until(ahead, decide(), lambda: True) == "decided"
        with pytest.raises(BrokenError):
            await anext(ahead.rest())


async def test_an_error_of_the_stream_is_told_once_the_decision_is_there():
    got, decided = [], asyncio.Event()
    async with aclosing(ReadAhead(Source([0], fails=True).stream())) as ahead:
        asyncio.get_running_loop().call_later(0.01, decided.set)
        await until(ahead, decided.wait(), lambda: True, got)
        assert got == [0]
        with pytest.raises(BrokenError):
            await anext(ahead.rest())


async def test_an_error_of_the_decision_is_raised_and_the_stream_can_be_closed():
    source = Source([0, 100])
    async with aclosing(ReadAhead(source.stream())) as ahead:
        with pytest.raises(LookupError):
            await until(ahead, turns(9, LookupError()), lambda: True)
    assert source.closed


async def test_an_error_that_nobody_reads_any_more_is_not_complained_about():
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
    both = asyncio.Event()

    async def stream():
        await both.wait()
        raise BrokenError
        yield

    ahead = ReadAhead(stream())
    asyncio.get_running_loop().call_later(0.01, both.set)
    assert await until(ahead, both.wait(), lambda: True)
    await turns(5)
    await ahead.aclose()
    del ahead
    await turns(5)
    assert complaints == []
