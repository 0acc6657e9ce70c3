"""In-flight reclaim: tokens that a finished request left go to running ones, before they reach their budgets. Pure.

Theory of operation. The pipeline tells the reclaimer of each request that starts to generate with a fresh prediction
and one trace (``start``). When any request ends, finished, failed or cancelled, the pipeline settles it in the ledger,
stops it here (``stop``) and offers the tokens that it did not use (``offer``). These are in the ledger's bank by then.
The reclaimer sorts the next envelope segments of all running requests by slope, and grants whole segments, steepest
first, while the offer lasts. ``take`` (the ledger's ``extend``) moves the tokens from the bank to the running
request's reservation, and only then does ``grow`` tell the request's forcing machine of its larger budget.

What always holds: a budget never grows beyond its reservation or its cap, and never shrinks; no more is given than was
offered; a segment is granted only after all segments before it of the same request; nothing flatter than
``least_slope`` is granted, so that requests yet to come can buy at the price. A request that has begun its answer
(``reasons`` is false) gets nothing. All of it happens in one call without waiting, so no other task sees half of it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from scheduler_service.allocation.curve import Curve
from scheduler_service.allocation.envelope import segments_of


@dataclass
class Running:
    """A request that generates: what it may use, and what more would bring.

    ``grow``: tells it of its larger budget; ``reasons``: whether it could still use one; ``weight``: what its accuracy
    is worth.
    """

    key: Hashable
    curve: Curve
    budget: int
    cap: int
    grow: Callable[[int], None]
    reasons: Callable[[], bool] = lambda: True
    weight: float = 1.0


@dataclass
class Reclaimer:
    """Keeps the running requests, and grants them what others left."""

    _running: dict[Hashable, Running] = field(default_factory=dict)

    def start(self, request: Running) -> None:
        """Note that a request with a prediction has started to generate."""
        self._running[request.key] = request

    def stop(self, key: Hashable) -> None:
        """Forget a request that ended; one that was never started is no error."""
        self._running.pop(key, None)

    def offer(self, tokens: float, take: Callable[[Hashable, float], bool], least_slope: float = 0.0) -> float:
        """Give up to ``tokens`` to the running requests whose next envelope segments gain most; returns what was given.

        Tokens are those that budgets are expected to use. ``take`` moves tokens of the ledger to a request, or refuses.
        ``least_slope``: weighted gains per token below this are left to requests that have yet to come (the price).
        """
        segments = sorted(
            (
                (segment, request)
                for request in self._running.values()
                if request.reasons()
                for segment in segments_of(request.curve, request.budget, request.cap, request.weight)
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
