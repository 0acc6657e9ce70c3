"""One generation, any number of readers: a retried request joins the running one, and a slow reader slows it down.

Theory of operation. The gRPC servicer and the HTTP front read ``Generations.stream``. The first call for a tenant's
request id starts a task, the pump, which reads ``Pipeline.generate`` and copies each event to every reader's backlog.
A later call with the same id joins: it starts with a copy of all that was said so far, and then gets what comes. The
pump belongs to no call, so a generation outlives the call that began it, as long as it has a reader.

What always holds: there is at most one running generation for a tenant's request id; every reader gets every event, in
order, from the first; readers do not wait for each other. Neighbouring texts of one kind that a reader has not read yet
become one, so that a reader who falls behind gets fewer and larger messages. When even the fastest reader is
``most_unread`` characters behind, the pump waits, which stops the read from the LLM server; after
``most_stalled_seconds`` of that it ends the generation with SlowReaderError, since it holds a slot of the backend.

On cancellation of a call its reader leaves and the generation goes on for the others. When the last reader leaves, the
pump is cancelled: that closes ``Pipeline.generate``, which stops the LLM server, frees the slot and settles the tokens.
A new request of the same id that comes meanwhile waits for that end and begins anew. An error of the pipeline is kept
and raised for each reader, after the events that came before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from opentelemetry import baggage, context

from predictive_scheduling import semconv
from scheduler_service.domain import DrainingError, Event, InvalidRequestError, Job, SlowReaderError, Text

_MOST_PARTS = 64

Generate = Callable[[Job], AsyncGenerator[Event]]


@dataclass(slots=True)
class _Entry:
    """An event, and, of texts, all that came of one kind: their parts and their tokens."""

    event: Event
    parts: list[str]
    tokens: int = 0

    def whole(self) -> Event:
        """Return the event; where several texts were merged, one that holds all of them."""
        if len(self.parts) < 2 or not isinstance(self.event, Text):
            return self.event
        return replace(self.event, text="".join(self.parts), tokens=self.tokens)


class Backlog:
    """Events that wait to be read, in order; neighbouring texts of one kind are read as one."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        """Start with ``events``. ``size`` is the number of characters of text that wait."""
        self._waiting: deque[_Entry] = deque()
        self.size = 0
        for event in events:
            self.put(event)

    def put(self, event: Event) -> None:
        """Add an event at the end; a text joins the one before it where both are of one kind."""
        if not isinstance(event, Text):
            self._waiting.append(_Entry(event, []))
            return
        self.size += len(event.text)
        if self._waiting and _alike((last := self._waiting[-1]).event, event):
            last.parts.append(event.text)
            last.tokens += event.tokens
            if len(last.parts) > _MOST_PARTS:
                last.parts = ["".join(last.parts)]
                last.event = replace(event, text=last.parts[0], tokens=last.tokens)
            return
        self._waiting.append(_Entry(event, [event.text], event.tokens))

    def pop(self) -> Event:
        """Take the first event. Raises IndexError where none waits."""
        event = self._waiting.popleft().whole()
        if isinstance(event, Text):
            self.size -= len(event.text)
        return event

    def __len__(self) -> int:
        """How many events ``pop`` would give."""
        return len(self._waiting)

    def events(self) -> list[Event]:
        """Return what waits, without taking it."""
        return [entry.whole() for entry in self._waiting]


def _alike(last: Event, new: Text) -> bool:
    return isinstance(last, Text) and last.kind is new.kind and last.forced == new.forced


@dataclass(eq=False)
class _Reader:
    """A reader of a generation. ``unread``: what it has not read yet. ``news``: set when there is more."""

    unread: Backlog
    news: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Running:
    """A running generation. ``said``: all its events so far, for readers that join. ``room``: set when one has read."""

    job: Job
    said: Backlog = field(default_factory=Backlog)
    readers: list[_Reader] = field(default_factory=list)
    room: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    error: Exception | None = None
    task: asyncio.Task[None] | None = None

    def say(self, event: Event) -> None:
        """Add an event for every reader, and for those that join later."""
        self.said.put(event)
        for reader in self.readers:
            reader.unread.put(event)
            reader.news.set()

    def end(self, error: Exception | None) -> None:
        """Note the end and its error; readers end once they have read everything before it."""
        self.ended, self.error = True, error
        for reader in self.readers:
            reader.news.set()

    @property
    def behind(self) -> int:
        """How many characters the fastest reader has not read yet."""
        return min((reader.unread.size for reader in self.readers), default=0)


class Generations:
    """The generations that run now, by tenant and request id. Their tasks run in ``tasks``, which must outlive them."""

    def __init__(
        self,
        generate: Generate,
        tasks: asyncio.TaskGroup,
        *,
        most_unread: int = 8192,
        most_stalled_seconds: float = 60.0,
    ) -> None:
        """Run jobs by ``generate``, which yields a job's events and raises the errors of ``domain``.

        A generation that waits ``most_stalled_seconds`` for its readers ends, since it holds a slot of the backend.
        """
        self._generate = generate
        self._tasks = tasks
        self._most_unread = most_unread
        self._most_stalled = most_stalled_seconds
        self._running: dict[tuple[str, str], _Running] = {}

    async def stream(self, job: Job) -> AsyncGenerator[Event]:
        """Yield a job's events: those of the tenant's running request of the same id, where there is one.

        Raises what the generation raises, InvalidRequestError where the running request asks for something else, and
        DrainingError where no generation begins any more.
        A generation without readers is cancelled, which frees its slot and returns its tokens.
        """
        running = await self._find(job)
        reader = _Reader(Backlog(running.said.events()))
        running.readers.append(reader)
        try:
            while True:
                while len(reader.unread):
                    event = reader.unread.pop()
                    running.room.set()
                    yield event
                if running.ended:
                    break
                reader.news.clear()
                await reader.news.wait()
            if running.error is not None:
                raise running.error
        finally:
            running.readers.remove(reader)
            running.room.set()
            if not running.readers and running.task is not None:
                running.task.cancel()

    async def _find(self, job: Job) -> _Running:
        """The running generation of the job, begun where there is none."""
        while (running := self._running.get(job.key)) is not None:
            if running.readers:
                # A retry has a deadline of its own, but asks for the same.
                if replace(job, deadline=None) != replace(running.job, deadline=None):
                    raise InvalidRequestError(
                        "job.request_id", f"{job.request_id!r} is the id of another request that still runs"
                    )
                return running
            if running.task is not None:  # its last reader has left: it ends, and then this one begins
                await asyncio.wait([running.task])
                if self._running.get(job.key) is running:  # it was cancelled before it began, with its group
                    del self._running[job.key]
        running = _Running(job)
        pumping = self._pump(running)
        try:
            running.task = self._tasks.create_task(pumping)
        except RuntimeError:  # the group ends, and takes no more tasks
            pumping.close()
            raise DrainingError("the scheduler is shutting down") from None
        self._running[job.key] = running
        return running

    async def _wait_for_readers(self, running: _Running) -> None:
        try:
            async with asyncio.timeout(self._most_stalled):
                while running.behind >= self._most_unread:
                    running.room.clear()
                    await running.room.wait()
        except TimeoutError:
            raise SlowReaderError(f"the caller did not read for {self._most_stalled:g} s") from None

    async def _pump(self, running: _Running) -> None:
        # This task's context is its own: what is attached here travels to predictor and backend, and nowhere else.
        if running.job.tenant:
            context.attach(baggage.set_baggage(semconv.TENANT, running.job.tenant))
        error: Exception | None = None
        begun = False
        try:
            async with aclosing(self._generate(running.job)) as events:
                async for event in events:
                    running.say(event)
                    if not begun and isinstance(event, Text):
                        begun = True
                        await asyncio.sleep(0)  # The first text goes out before what came with it is worked through.
                    if running.behind >= self._most_unread:
                        await self._wait_for_readers(running)
        except Exception as failure:  # whatever it is, it belongs to those who read
            error = failure
        finally:
            del self._running[running.job.key]
            running.end(error)
