"""Readers of one generation: joining, leaving, falling behind."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.api.generations import Backlog, Generations
from scheduler_service.domain import BackendUnavailableError, DrainingError, InvalidRequestError, Job, Text, TextKind

JOB = Job("id", "prompt", "", 0, 1000)
texts = st.builds(Text, st.sampled_from(TextKind), st.text(max_size=3), st.integers(0, 3), st.booleans())


def joined(events):
    """What was said, piece by piece of one kind."""
    words = []
    for event in events:
        if words and words[-1][:2] == (event.kind, event.forced):
            words[-1] = (*words[-1][:2], words[-1][2] + event.text, words[-1][3] + event.tokens)
        else:
            words.append((event.kind, event.forced, event.text, event.tokens))
    return words


@given(st.lists(texts, max_size=200), st.lists(st.booleans(), max_size=200))
def test_a_backlog_loses_and_reorders_nothing(events, reads):
    backlog, read = Backlog(), []
    for at, event in enumerate(events):
        backlog.put(event)
        if at < len(reads) and reads[at]:
            read.append(backlog.pop())
        assert backlog.size == sum(len(waiting.text) for waiting in backlog.events())
    assert joined([*read, *backlog.events()]) == joined(events)
    while len(backlog):
        read.append(backlog.pop())
    assert joined(read) == joined(events)
    assert backlog.size == 0


class Source:
    """Yields one-token texts as fast as they are asked for; counts them, and whether it was closed."""

    def __init__(self, count=1000, error=None, seconds=0.0):
        self.count, self.error, self.seconds = count, error, seconds
        self.yielded, self.closed, self.started = 0, False, 0

    async def __call__(self, job):
        self.started += 1
        try:
            for at in range(self.count):
                await asyncio.sleep(self.seconds)
                self.yielded += 1
                yield Text(TextKind.REASONING, f"{at:03} ", 1)
            if self.error:
                raise self.error
        finally:
            self.closed = True


@asynccontextmanager
async def generations(source, **options):
    async with asyncio.TaskGroup() as group:
        yield Generations(source, group, **options)


async def turns(count=50):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_reader_that_stops_reading_stops_the_source():
    source = Source(count=1000)
    async with generations(source, most_unread=40) as running:
        stream = running.stream(JOB)
        first = await anext(stream)
        assert first.tokens == 1  # the first token is never held back
        await turns()
        assert source.yielded == 11
        second = await anext(stream)
        assert second.tokens == 10  # what waited comes as one piece
        await turns()
        assert source.yielded == 21
        rest = [text async for text in stream]
    assert first.tokens + second.tokens + sum(text.tokens for text in rest) == 1000
    assert "".join(text.text for text in (first, second, *rest)) == "".join(f"{at:03} " for at in range(1000))


async def test_the_fastest_of_two_readers_sets_the_pace():
    source = Source(count=100)
    async with generations(source, most_unread=40) as running:
        slow, fast = running.stream(JOB), running.stream(JOB)
        await anext(slow)
        assert sum([text.tokens async for text in fast]) == 100
        rest = [text async for text in slow]
    assert source.started == 1
    assert [text.tokens for text in rest] == [99]


async def test_the_last_reader_to_leave_closes_the_source():
    source = Source(count=100, seconds=0.001)
    async with generations(source) as running:
        one, other = running.stream(JOB), running.stream(JOB)
        await anext(one)
        await anext(other)
        await one.aclose()
        await anext(other)
        assert not source.closed
        await other.aclose()
        await turns()
        assert source.closed
        assert [text async for text in running.stream(JOB)]  # the same id begins anew
    assert source.started == 2


async def test_a_retry_while_the_abandoned_one_still_closes_waits_for_it():
    source = Source(count=20, seconds=0.001)
    async with generations(source) as running:
        one = running.stream(JOB)
        await anext(one)
        await one.aclose()
        again = [text async for text in running.stream(JOB)]
    assert sum(text.tokens for text in again) == 20
    assert source.started == 2


async def test_every_reader_gets_the_error_after_what_came_before_it():
    source = Source(count=3, error=BackendUnavailableError("gone"))
    async with generations(source) as running:

        async def read():
            tokens = 0
            try:
                async for text in running.stream(JOB):
                    tokens += text.tokens
            except BackendUnavailableError:
                return tokens
            return None

        assert await asyncio.gather(read(), read()) == [3, 3]


async def test_another_request_of_the_same_id_is_refused():
    async with generations(Source(count=50, seconds=0.001)) as running:
        stream = running.stream(JOB)
        await anext(stream)
        with pytest.raises(InvalidRequestError):
            await anext(running.stream(Job("id", "something else", "", 0, 1000)))
        await stream.aclose()


@pytest.mark.parametrize("begun", [False, True])
async def test_while_the_group_ends_a_request_and_its_retry_are_refused(begun):
    async def first():
        return await anext(running.stream(JOB))

    reading = None
    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            running = Generations(Source(count=1), group)
            if begun:  # its task is cancelled with the group, before it has run
                reading = asyncio.ensure_future(first())
                await asyncio.sleep(0)
            raise ConnectionError
    if reading is not None:
        reading.cancel()
        await asyncio.wait([reading])
    for _ in range(2):
        with pytest.raises(DrainingError):
            await first()
