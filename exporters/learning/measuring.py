"""Measures samples by extra generations, as far as the LLM server is idle.

They go to the LLM server itself, not through the scheduler: they take nobody's budget, wait in nobody's queue, and are
started only into slots that nobody uses. Where the server serves by priority they have the least one, so that whoever
comes between two looks at the load goes first. A question that was given up is measured again later; what was generated
for it counts as spent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from exporters.learning.idle import IdleAccount, Load
from exporters.learning.samples import Example, OnMeasured
from exporters.learning.states import PromptState, States
from exporters.measure.collect import Measured, Plan, measure_question
from exporters.measure.judging import Judge
from exporters.measure.questions import Question
from scheduler_service.domain import BackendUnavailableError, Sampling, SchedulingError
from scheduler_service.generation.backends.base import Backend, Ended, EndpointBusyError, Limits, Piece
from scheduler_service.generation.forcing import Call

log = logging.getLogger(__name__)


_Found = tuple[Measured, PromptState | None]


class Loads(Protocol):
    """Says how busy the LLM server is."""

    async def load(self) -> Load:
        """Return the load now; one that cannot be found out counts as full."""
        ...


@dataclass(frozen=True)
class Unused:
    """An LLM server that nobody else uses. ``slots``: generations at once."""

    slots: int

    async def load(self) -> Load:
        """Return that all slots are idle."""
        return Load(0, self.slots)


class Counting:
    """A backend as the loop asks it: after all others, and every token counted, those of abandoned calls too."""

    def __init__(self, backend: Backend, priority: int = 0) -> None:
        """Count what ``backend`` generates. ``priority``: of its calls, the lower the sooner; 0 says none."""
        self._backend, self._priority, self.tokens = backend, priority, 0
        self.name, self.capabilities = backend.name, backend.capabilities

    async def start(self) -> None:
        """Start the backend."""
        await self._backend.start()

    async def close(self) -> None:
        """Close the backend."""
        await self._backend.close()

    async def limits(self) -> Limits:
        """Return the backend's limits."""
        return await self._backend.limits()

    async def stream(self, call: Call, sampling: Sampling, headers: Mapping[str, str]) -> AsyncIterator[Piece | Ended]:
        """Run one call."""
        async for event in self._backend.stream(replace(call, priority=self._priority), sampling, headers):
            if isinstance(event, Piece):
                self.tokens += event.tokens
            yield event


@dataclass
class Measuring:
    """Measures on a started backend. ``tick``: seconds after which the load is looked at again, at the latest.

    ``most_seconds``: after which a pass ends, whatever is left. ``states``: asks for each prompt's hidden state, where
    the server sends them.
    """

    backend: Counting
    plan: Plan
    judge: Judge
    loads: Loads
    account: IdleAccount
    states: States | None = None
    tick: float = 1.0
    most_seconds: float = float("inf")
    clock: Callable[[], float] = time.monotonic
    given_up: int = 0
    unmeasurable: set[str] = field(default_factory=set)
    _failed: bool = False  # at a question, in this pass

    async def __call__(self, examples: Sequence[Example], on_measured: OnMeasured) -> int:
        """Measure examples, oldest first, and tell of each by its key; returns the tokens that were generated.

        Returns early where the backend cannot be reached, or has no room. What a prompt is refused for is not asked
        again; one that the backend fails at is left for the next pass, so that it does not hold up the others.
        """
        waiting = deque(example for example in examples if example.key not in self.unmeasurable)
        running: dict[asyncio.Task[_Found], Example] = {}
        before, began, self._failed = self.backend.tokens, self.clock(), False
        last = began
        try:
            while waiting or running:
                now = self.clock()
                allowed = self.account.tick(await self.loads.load(), len(running), now - last)
                last = now
                if now - began > self.most_seconds:
                    break
                if allowed.give_up:
                    self.given_up += len(running)
                    waiting.extendleft(await self._cancel(running))
                for _ in range(min(allowed.start, len(waiting))):
                    example = waiting.popleft()
                    running[self._begin(example)] = example
                if not running:
                    await asyncio.sleep(self.tick)
                    continue
                done, _ = await asyncio.wait(running, timeout=self.tick, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    await self._take(task, running.pop(task), on_measured)
        except BackendUnavailableError as error:
            log.warning("the LLM server cannot be reached, the rest is measured later: %s", error)
        finally:
            await self._cancel(running)
        return self.backend.tokens - before

    def _begin(self, example: Example) -> asyncio.Task[_Found]:
        return asyncio.get_running_loop().create_task(self._measure(example))

    async def _measure(self, example: Example) -> _Found:
        question = Question(example.key, example.sample.prompt, None)
        if self.states is None:
            return await measure_question(self.backend, self.plan, question, self.judge), None
        expected = self.states.expect()
        measured = await measure_question(self.backend, self.plan, question, self.judge, expected.request)
        return measured, await self.states.came(expected)

    async def _take(self, task: asyncio.Task[_Found], example: Example, on_measured: OnMeasured) -> None:
        try:
            measured, state = task.result()
        except BackendUnavailableError as error:
            if isinstance(error, EndpointBusyError):
                raise
            await self.backend.limits()  # raises where it is the server, and not the question
            if not self._failed:
                log.warning("a question is measured later, as are others that it fails at: %s", error)
            self._failed = True
        except SchedulingError:  # its reason may quote the prompt
            self.unmeasurable.add(example.key)
        else:
            on_measured(example.key, measured, state)

    async def _cancel(self, running: dict[asyncio.Task[_Found], Example]) -> list[Example]:
        """Give up all that runs; returns the latest first, as a queue's left end takes them."""
        given_up = list(running.values())[::-1]
        for task in running:
            task.cancel()
        for task in running:
            with suppress(asyncio.CancelledError, SchedulingError):
                await task
        running.clear()
        return given_up
