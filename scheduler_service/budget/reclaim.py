"""In-flight reclaim: tokens that a finished request left go to running ones, before they reach their budgets. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scheduler_service.allocation.envelope import segments_of


@dataclass
class Running:
    """A request that generates: what it may use, and what more would bring.

    ``grow``: tells it of its larger budget; ``reasons``: whether it could still use one.
    """

    request_id: str
    curve: Sequence[float]
    budget: int
    cap: int
    grow: Callable[[int], None]
    reasons: Callable[[], bool] = lambda: True


@dataclass
class Reclaimer:
    """Knows the running requests. ``window_tokens``: the step of their curves."""

    window_tokens: int = 16
    _running: dict[str, Running] = field(default_factory=dict)

    def start(self, request: Running) -> None:
        """A request with a prediction starts to generate."""
        self._running[request.request_id] = request

    def stop(self, request_id: str) -> None:
        """It ended: it takes no more tokens."""
        self._running.pop(request_id, None)

    def offer(self, tokens: int, take: Callable[[str, int], bool], least_slope: float = 0.0) -> int:
        """Give up to ``tokens`` to the running requests whose next envelope segments gain most; returns what was given.

        ``take`` moves tokens of the ledger to a request, or refuses. ``least_slope``: gains per token below this are
        left to requests that have yet to come (the price).
        """
        segments = sorted(
            (
                (slope, request, length)
                for request in self._running.values()
                if request.reasons()
                for slope, length in segments_of(request.curve, request.budget, request.cap, self.window_tokens)
                if slope >= least_slope
            ),
            key=lambda entry: -entry[0],
        )
        given, passed = 0, set()
        for _, request, length in segments:
            if request.request_id in passed:
                continue
            if given + length > tokens or not take(request.request_id, length):
                passed.add(request.request_id)  # its later segments start where this one would have ended
                continue
            request.budget += length
            request.grow(request.budget)
            given += length
        return given
