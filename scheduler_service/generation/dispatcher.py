"""Runs generations on the backend: a bounded number at once, and each call to the LLM server in a span of its own.

Theory of operation. The pipeline reads ``Dispatcher.run``, once for each trace of a request. ``run`` waits for a slot
(``slots``: a higher priority first, then who came first), and then reads ``driver.drive``. That asks the forcing
machine (``forcing``) for the next call, streams the call from the backend, feeds every piece to the machine, and goes
on until the machine wants no further call: usually one call for a generation that ends by itself, and a second one
that forces the answer. Everything here is pulled by the reader. Where the reader does not ask for the next text,
nothing is read from the server, so that a slow reader slows the server down and fills no memory.

What always holds: a generation keeps its slot from its first call to its last, so that a forced answer never queues
behind the reasoning of others; no more than ``slots`` generations have one; the forcing machine alone counts tokens.

On cancellation, whether the reader closes the iterator or its task is cancelled, the parts end from the inside out:
the backend's stream is closed (which tells the server to stop), the call's span ends with the tokens that came, and
the slot goes to the next one that waits. The forcing machine keeps its counts, and the pipeline settles those. A
request that is cancelled while it waits for a slot has called nothing and leaves the queue.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Self

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

from predictive_scheduling import semconv
from scheduler_service.domain import Sampling, Text
from scheduler_service.generation.backends.base import Backend, Ended
from scheduler_service.generation.driver import drive
from scheduler_service.generation.engine_reports import EngineReports, Expected
from scheduler_service.generation.forcing import BudgetForcing, Call
from scheduler_service.generation.slots import Slots


@dataclass
class Counted:
    """What the backend says about a generation besides its text. ``prompt_tokens``: 0 where it does not say.

    ``expected``: the report that the first call asks for, where it is to bring the prompt's hidden state. ``began``:
    when it got its slot, on the loop's clock; 0 before. ``on_wasted``: is told of tokens that the engine generated
    beyond those that were read, after each call.
    """

    prompt_tokens: int = 0
    began: float = 0.0
    expected: Expected | None = None
    on_wasted: Callable[[int], None] = lambda tokens: None


class Dispatcher:
    """Runs at most ``slots`` generations at once; the others wait for a free slot."""

    def __init__(
        self, backend: Backend, model: str, slots: int, tracer: trace.Tracer, reports: EngineReports | None = None
    ) -> None:
        """Dispatch to ``backend``, whose model is called ``model`` in telemetry; ``reports`` takes what it reports."""
        self._backend = backend
        self.capabilities = backend.capabilities
        self._model = model
        self.slots = Slots(slots)
        self._tracer = tracer
        self.reports = reports

    async def run(
        self, forcing: BudgetForcing, sampling: Sampling, counted: Counted, priority: int = 0
    ) -> AsyncGenerator[Text]:
        """Yield the generation's text as it comes; ``forcing`` then holds its counts.

        ``priority``: of the generations that wait for a slot, the one with the highest gets the next.

        Raises what ``drive`` raises. Closing the iterator frees the backend's slot.
        """

        def watch(call: Call) -> _CallSpan:
            expected, counted.expected = counted.expected, None
            if expected is None and self.reports is not None:
                expected = self.reports.expect((), counted.on_wasted)
            return _CallSpan(call, self._span(call), forcing, counted, expected)

        async with (
            self.slots.slot(priority),
            aclosing(drive(self._backend, forcing, sampling, watch=watch)) as texts,
        ):
            counted.began = time.monotonic()
            async for text in texts:
                yield text

    def _span(self, call: Call) -> trace.Span:
        attributes: dict[str, str | int] = {
            semconv.GEN_AI_OPERATION: "text_completion",
            semconv.GEN_AI_PROVIDER: self._backend.name,
            semconv.GEN_AI_REQUEST_MODEL: self._model,
            semconv.GEN_AI_MAX_TOKENS: call.max_tokens,
        }
        return self._tracer.start_span(f"text_completion {self._model}", kind=SpanKind.CLIENT, attributes=attributes)


class _CallSpan:
    """Tells a call's span how it ended and what it brought, and the generation how long its prompt is."""

    def __init__(
        self, call: Call, span: trace.Span, forcing: BudgetForcing, counted: Counted, expected: Expected | None
    ) -> None:
        self.call = call if expected is None else replace(call, report=expected.request)
        self._expected = expected
        self.headers: dict[str, str] = {}
        propagate.inject(self.headers, trace.set_span_in_context(span))
        self._span, self._forcing, self._counted = span, forcing, counted
        self._before = forcing.reasoning_tokens + forcing.answer_used

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace_back: object) -> None:
        if isinstance(error, Exception):
            self._span.set_attribute(semconv.ERROR_TYPE, type(error).__name__)
        brought = self._forcing.reasoning_tokens + self._forcing.answer_used - self._before
        self._span.set_attribute(semconv.GEN_AI_OUTPUT_TOKENS, brought)
        if self._expected is not None:
            self._expected.read(brought)
        self._span.end()

    def ended(self, ended: Ended) -> None:
        self._counted.prompt_tokens = self._counted.prompt_tokens or ended.prompt_tokens
        self._span.set_attribute(semconv.GEN_AI_INPUT_TOKENS, ended.prompt_tokens)
        self._span.set_attribute(semconv.GEN_AI_FINISH_REASONS, [ended.end.value])
