"""Runs one generation on the backend: the calls that budget forcing asks for, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

from predictive_scheduling import semconv
from scheduler_service.domain import Sampling, Text
from scheduler_service.generation.backends.base import Backend, Ended, Piece
from scheduler_service.generation.forcing import BudgetForcing, Call


@dataclass
class Counted:
    """What the backend said about a generation besides its text."""

    prompt_tokens: int = 0


class Dispatcher:
    """Runs at most ``slots`` generations at once; the others wait their turn."""

    def __init__(self, backend: Backend, model: str, slots: int, tracer: trace.Tracer) -> None:
        """Dispatch to ``backend``, whose model is called ``model`` in telemetry."""
        self._backend = backend
        self.capabilities = backend.capabilities
        self._model = model
        self._slots = asyncio.Semaphore(slots)
        self._tracer = tracer

    async def run(self, forcing: BudgetForcing, sampling: Sampling, counted: Counted) -> AsyncGenerator[Text]:
        """Yield the generation's text as it comes; ``forcing`` then holds its counts.

        Raises what the backend raises. Closing the iterator frees the backend's slot.
        """
        async with self._slots:
            while (call := forcing.next_call()) is not None:
                for text in forcing.take():
                    yield text
                async with aclosing(self._call(call, forcing, sampling, counted)) as texts:
                    async for text in texts:
                        yield text
            for text in forcing.take():
                yield text

    async def _call(
        self, call: Call, forcing: BudgetForcing, sampling: Sampling, counted: Counted
    ) -> AsyncGenerator[Text]:
        attributes: dict[str, str | int] = {
            semconv.GEN_AI_OPERATION: "text_completion",
            semconv.GEN_AI_PROVIDER: self._backend.name,
            semconv.GEN_AI_REQUEST_MODEL: self._model,
            semconv.GEN_AI_MAX_TOKENS: call.max_tokens,
        }
        span = self._tracer.start_span(f"text_completion {self._model}", kind=SpanKind.CLIENT, attributes=attributes)
        headers: dict[str, str] = {}
        propagate.inject(headers, trace.set_span_in_context(span))
        before = forcing.reasoning_tokens + forcing.answer_used
        try:
            # Every backend streams from an async generator; closing it is what frees the slot.
            stream = cast("AsyncGenerator[Piece | Ended]", self._backend.stream(call, sampling, headers))
            async with aclosing(stream):
                async for piece in stream:
                    if isinstance(piece, Ended):
                        counted.prompt_tokens = counted.prompt_tokens or piece.prompt_tokens
                        forcing.end_call(piece.end)
                        span.set_attribute(semconv.GEN_AI_INPUT_TOKENS, piece.prompt_tokens)
                        span.set_attribute(semconv.GEN_AI_FINISH_REASONS, [piece.end.value])
                        break
                    if not forcing.feed(piece.text, piece.tokens):
                        break
                    for text in forcing.take():
                        yield text
        except Exception as error:
            span.set_attribute(semconv.ERROR_TYPE, type(error).__name__)
            raise
        finally:
            span.set_attribute(semconv.GEN_AI_OUTPUT_TOKENS, forcing.reasoning_tokens + forcing.answer_used - before)
            span.end()
