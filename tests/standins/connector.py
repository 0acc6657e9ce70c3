"""What vLLM with our connector does beside its answers: sends states and ends to whom requests name.

It is made of the connector's own parts; only the hidden states are invented.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from predictive_scheduling_vllm import frames
from predictive_scheduling_vllm.destinations import Allowed, Wanted, wanted
from predictive_scheduling_vllm.sender import Sender

from tests.waiting import PATIENCE


@dataclass
class ConnectorStandIn:
    """``state`` maps a prompt to the numbers of each of ``layers``, the ones that the engine keeps.

    ``mode``: "sent" (before the first token), "late" (once ``late`` is set), "never", or "gone" (the whole connector is
    not there). ``beyond``: tokens that the engine generates after those that it sent, since it hears last of a cut.
    ``asked``: what requests asked for; ``generated``: by id, how many tokens were.
    """

    state: Callable[[str], Sequence[float]] = lambda prompt: [0.0, 0.0, 0.0, 0.0]
    layers: Sequence[int] = (3,)
    mode: str = "sent"
    beyond: int = 0
    late: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[dict[str, Any]] = field(default_factory=list)
    generated: dict[str, int] = field(default_factory=dict)
    sender: Sender = field(default_factory=lambda: Sender(seconds=PATIENCE))
    _sending: list[asyncio.Task[None]] = field(default_factory=list)

    def computed(self, body: dict[str, Any], prompt: str) -> Wanted | None:
        """A request's prompt is computed; returns what it asks for."""
        parameters = body.get("kv_transfer_params")
        if parameters is None or self.mode == "gone":
            return None
        self.asked.append(parameters["prompt_state"])
        to = parameters["prompt_state"]["to"]  # an operator who allows whatever a test listens at
        found = wanted(parameters, Allowed([to]))
        if found is not None and found.layers:
            self._sending.append(asyncio.ensure_future(self._send(found, prompt)))
        return found

    async def _send(self, asked: Wanted, prompt: str) -> None:
        layers = asked.layers or ()
        if unknown := set(layers) - set(self.layers):
            reason = f"layer {min(unknown)} is not kept"
            self.sender.send(asked.address, asked.name, frames.refusal(asked.name, reason))
            return
        if self.mode == "never":
            return
        if self.mode == "late":
            await self.late.wait()
        values = np.tile(np.array(self.state(prompt), "<f4"), len(layers))
        frame = frames.state(asked.name, layers, "float32", len(values) // len(layers), 5, values.tobytes())
        self.sender.send(asked.address, asked.name, frame)

    def ended(self, asked: Wanted | None, sent: int) -> None:
        """A request is over, or was given up, after so many tokens."""
        if asked is not None:
            self.generated[asked.name] = sent + self.beyond
            self.sender.send(asked.address, asked.name, frames.end(asked.name, sent + self.beyond))

    async def close(self) -> None:
        """End what is still to be sent."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await asyncio.to_thread(self.sender.close)
