"""What commands do with a running engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from exporters.measure.engine_states import read_states
from exporters.measure.questions import Question
from scheduler_service.generation.backends import make_backend
from scheduler_service.generation.engine_reports import EngineReports
from scheduler_service.generation.templates import PromptTemplate
from scheduler_service.settings import SchedulerSettings


def states_of_engine(
    settings: Mapping[str, str],
    listen: str,
    template: PromptTemplate,
    questions: Sequence[Question],
    layers: Sequence[int],
    concurrency: int,
    on_read: Callable[[], None],
) -> NDArray[np.float16]:
    """Return what ``read_states`` returns, from the engine that the scheduler's ``settings`` name.

    Raises ValueError for settings that are none or an address that cannot be listened at, and what ``read_states``
    raises.
    """
    backend = make_backend(SchedulerSettings.model_validate(dict(settings)).backend_configuration)

    async def read() -> NDArray[np.float16]:
        reports = EngineReports(listen)
        await backend.start()
        try:
            await backend.limits()  # which also asks the server what its model is called
            await reports.start()
            return await read_states(
                backend, reports, template, questions, layers, concurrency=concurrency, on_read=on_read
            )
        finally:
            await reports.close()
            await backend.close()

    return asyncio.run(read())
