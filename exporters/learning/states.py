"""The hidden state of a prompt, brought by the generation that measures it, where the engine sends it.

vLLM with our connector sends the state of a prompt's last token once the prompt is computed (``engines/vllm``). The
first call of a question's first trace has the prompt alone, and asks for it: that costs no generation of its own, and
gives the state that the scheduler is given of the same prompt.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler_service.generation.engine_reports import EngineReports, Expected

log = logging.getLogger(__name__)

Origin = tuple[int, int]  # layer and size: states of two origins cannot be read by one model
_LARGEST = float(np.finfo(np.float16).max)
_SECONDS = 1.0  # after the last trace; a state comes before the first token of the first one


@dataclass(frozen=True, eq=False)
class PromptState:
    """A prompt's state. ``layer``: where it is from; ``values``: (size,) float16, which has bfloat16's digits."""

    layer: int
    values: NDArray[np.float16]

    @property
    def origin(self) -> Origin:
        """Its layer and size."""
        return self.layer, len(self.values)


def joined(states: Sequence[PromptState | None], origin: Origin) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the states of one origin as (n, size), zeros where there is none, and which rows (n,) there are."""
    found = np.zeros((len(states), origin[1]), np.float32)
    known = np.zeros(len(states), bool)
    for row, state in enumerate(states):
        if state is not None and state.origin == origin:
            found[row], known[row] = state.values, True
    return found, known


class States:
    """Asks for the states of ``layer``, which come by ``reports``, which the caller starts and closes."""

    def __init__(self, reports: EngineReports, layer: int) -> None:
        """Ask for nothing yet."""
        self._reports, self._layer, self._missed = reports, layer, False

    def expect(self) -> Expected:
        """Return what a question's first call is to ask for."""
        return self._reports.expect((self._layer,))

    async def came(self, expected: Expected) -> PromptState | None:
        """Return the state of a question that is measured; ``None``, which is logged once, where none came."""
        await asyncio.wait({expected.state}, timeout=_SECONDS)
        if expected.state.done() and expected.state.exception() is None:
            values = expected.state.result().values[0]
            return PromptState(self._layer, np.clip(values, -_LARGEST, _LARGEST).astype(np.float16))
        if not self._missed:
            said = "is its connector set up, and does it allow this address?"
            why = expected.state.exception() if expected.state.done() else said
            log.warning("the engine sends no hidden state to %s: %s", self._reports.address, why)
        self._missed = True
        return None
