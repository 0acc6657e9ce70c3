"""Hidden states as a running engine computes them: the same numbers in training as in serving.

vLLM with our connector sends the state of a prompt's last token while it serves (``engines/vllm``); one generated token
a question is all that it costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from exporters.measure.questions import Question
from scheduler_service.domain import BackendUnavailableError, Sampling
from scheduler_service.generation.backends.base import Backend
from scheduler_service.generation.engine_reports import EngineReports, NoStateError
from scheduler_service.generation.forcing import Call, Turn
from scheduler_service.generation.templates import PromptTemplate

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_STATE_SECONDS = 10.0  # after the call is over


async def read_states(
    backend: Backend,
    reports: EngineReports,
    template: PromptTemplate,
    questions: Sequence[Question],
    layers: Sequence[int],
    *,
    concurrency: int = 8,
    on_read: Callable[[], None] = lambda: None,
) -> NDArray[np.float16]:
    """Return the states of ``layers`` at each question's last prompt token: (layers, questions, size).

    Raises what the backend raises, and BackendUnavailableError where the engine sends no state, with its reason.
    """
    rows: dict[int, NDArray[np.float32]] = {}
    waiting = iter(enumerate(questions))

    async def worker() -> None:
        for at, question in waiting:
            rows[at] = await _state(backend, reports, template, question, layers)
            on_read()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return np.stack([rows[at] for at in range(len(questions))], axis=1).astype(np.float16)


async def _state(
    backend: Backend, reports: EngineReports, template: PromptTemplate, question: Question, layers: Sequence[int]
) -> NDArray[np.float32]:
    expected = reports.expect(layers)
    turn = Turn(question.question, template.think_start, template.think_end)
    call = Call(template.render(question.question), 1, turn=turn, report=expected.request)
    stream = cast("AsyncGenerator[object]", backend.stream(call, Sampling(temperature=0.0), {}))
    async with aclosing(stream):
        async for _ in stream:
            pass
    try:
        async with asyncio.timeout(_STATE_SECONDS):
            return (await expected.state).values
    except NoStateError as error:
        raise BackendUnavailableError(f"the engine sends no hidden state: {error}") from None
    except TimeoutError:
        raise BackendUnavailableError(
            f"the engine sent no hidden state to {reports.address}: is its connector set up, and does it allow this "
            "address as a destination?"
        ) from None
