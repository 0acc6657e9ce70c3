"""In-flight reclaim: tokens that a finished request left go to running ones, before they reach their budgets. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from scheduler_service.allocation.curve import Curve
from scheduler_service.allocation.envelope import segments_of


@dataclass
class Running:
    """A request that generates: what it may use, and what more would bring.

    ``grow``: tells it of its larger budget; ``reasons``: whether it could still use one.
    """

    key: Hashable
    curve: Curve
    budget: int
    cap: int
    grow: Callable[[int], None]
    reasons: Callable[[], bool] = lambda: True


@dataclass
class Reclaimer:
    """Knows the running requests."""

    _running: dict[Hashable, Running] = field(default_factory=dict)

    def start(self, request: Running) -> None:
        """A request with a prediction starts to generate."""
        self._running[request.key] = request

    def stop(self, key: Hashable) -> None:
        """It ended: it takes no more tokens."""
        self._running.pop(key, None)

    def offer(self, tokens: float, take: Callable[[Hashable, float], bool], least_slope: float = 0.0) -> float:
        """Give up to ``tokens`` to the running requests whose next envelope segments gain most; returns what was given.

        Tokens are those that budgets are expected to use. ``take`` moves tokens of the ledger to a request, or refuses.
        ``least_slope``: gains per token below this are left to requests that have yet to come (the price).
        """
        segments = sorted(
            (
                (segment, request)
                for request in self._running.values()
                if request.reasons()
                for segment in segments_of(request.curve, request.budget, request.cap)
                if segment.slope >= least_slope
            ),
            key=lambda entry: -entry[0].slope,
        )
        given = 0.0
        passed: set[Hashable] = set()
        for segment, request in segments:
            if request.key in passed:
                continue
            if given + segment.cost > tokens or not take(request.key, segment.cost):
                passed.add(request.key)  # its later segments start where this one would have ended
                continue
            request.budget = segment.end
            request.grow(request.budget)
            given += segment.cost
        return given
