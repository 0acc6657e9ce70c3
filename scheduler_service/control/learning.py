"""What the controller is told once a second, and what it learns from it: the engines' line, their slots, the demand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scheduler_service.control.capacity import Demand, Engine, EngineLine
from scheduler_service.control.objectives import Objective

_RATE_SECONDS = 2.0  # over which arrivals are counted, at least
_RATE_ARRIVALS = 30.0  # and at least so many of them
_UNLIKE_SECONDS = 5.0  # over which the slowest replica is compared with the mean
_SLOW_SECONDS = 20.0  # over which answers and sizes are averaged
_START_SECONDS = 5.0  # over which starts are: they grow with the load, and shrink with it
_MOST_VARIATION = 4.0
_SAMPLES = 4  # requests from which on the slowest one says something
_SLOTS_GROW = 1.1  # a second, after requests have waited for memory
LONGEST_SECONDS = 600.0  # that anything grows or shrinks over at once; a process may have been stopped for hours


@dataclass(frozen=True)
class Observation:
    """What was seen in the last ``seconds``, which are above 0.

    ``arrivals``: requests that came, those refused included. ``running``: requests in slots, on average; ``waiting``:
    those without a slot now. ``tokens``: generated. ``outstanding``: tokens expected of the requests that are here, not
    yet generated. ``slots``: how many the engines run at once. ``start``: mean seconds from a slot to the first token,
    ``forcing``: from the end of the reasoning to the first token of a forced answer; ``None`` where none came. Of the
    requests that ended, ``paces``: seconds per token of each, ``answers`` and ``sizes``: tokens of the answer, and of
    reasoning and answer together, ``measured``: seconds that the requests of each objective took.
    """

    seconds: float
    arrivals: float
    running: float
    waiting: float
    tokens: float
    outstanding: float
    slots: float
    start: float | None = None
    forcing: float | None = None
    paces: Sequence[float] = ()
    answers: Sequence[float] = ()
    sizes: Sequence[float] = ()
    measured: Mapping[Objective, Sequence[float]] = field(default_factory=dict)


def quantile_of(values: Sequence[float], quantile: float) -> float:
    """The ``quantile`` (0 to 1) of some values: the least one that so large a share does not exceed."""
    return sorted(values)[max(0, math.ceil(quantile * len(values)) - 1)]


class _Average:
    """An average that forgets: what is older than ``seconds`` counts 1/e. Starts at the first value."""

    def __init__(self, start: float = 0.0) -> None:
        self.value, self._started = start, False

    def add(self, value: float, passed: float, seconds: float) -> None:
        share = 1 - math.exp(-passed / seconds) if self._started else 1.0
        self.value += share * (value - self.value)
        self._started = True


class Learner:
    """Keeps what was learned. ``quantile``: at which replicas are compared; ``patience``: seconds of the least
    objective, half of which arrivals may be counted over.
    """

    def __init__(self, quantile: float, patience: float) -> None:
        """Start with nothing seen."""
        self._quantile, self._patience = quantile, patience
        self._line = EngineLine()
        self._slots, self._waited = math.inf, 0.0
        self._rate, self._answer, self._ended = _Average(), _Average(), _Average()
        self._start, self._forcing = _Average(), _Average()
        self._size, self._square, self._unlike = _Average(), _Average(), _Average(1.0)

    def learn(self, seen: Observation) -> Engine:
        """Take what was seen; return the model as it now is."""
        passed = seen.seconds
        # Little's law counts the time in which prompts are computed by itself, so it must not be in that of tokens as
        # well: the fewer tokens a request has, the more it would be of each.
        starting = (self._start.value + self._forcing.value) * self._ended.value
        self._line.observe(seen.running, seen.tokens, passed, max(1.0, seen.slots), starting)
        self._ended.add(len(seen.sizes) / passed, passed, _RATE_SECONDS)
        # Requests that wait while slots are free wait for memory: there are as many slots as run.
        full = min(seen.waiting, self._waited) >= 1 and seen.running > 0
        self._waited = seen.waiting
        room = seen.running if full else max(seen.running, self._slots * _SLOTS_GROW ** min(passed, LONGEST_SECONDS))
        self._slots = max(1.0, min(seen.slots, room))
        rate = seen.arrivals / passed
        arrivals = _RATE_ARRIVALS / max(self._rate.value, rate, 1e-9)
        self._rate.add(rate, passed, max(_RATE_SECONDS, min(arrivals, self._patience / 2)))
        if len(seen.paces) >= _SAMPLES:
            unlike = quantile_of(seen.paces, self._quantile) * len(seen.paces) / sum(seen.paces)
            self._unlike.add(max(1.0, unlike), passed, _UNLIKE_SECONDS)
        if seen.start is not None:
            self._start.add(seen.start, passed, _START_SECONDS)
        if seen.forcing is not None:
            self._forcing.add(seen.forcing, passed, _START_SECONDS)
        if seen.answers:
            self._answer.add(sum(seen.answers) / len(seen.answers), passed, _SLOW_SECONDS)
        if seen.sizes:
            self._size.add(sum(seen.sizes) / len(seen.sizes), passed, _SLOW_SECONDS)
            self._square.add(sum(size * size for size in seen.sizes) / len(seen.sizes), passed, _SLOW_SECONDS)
        return Engine(self._line, self._slots, self._demand())

    def _demand(self) -> Demand:
        size = self._size.value
        variation = min(_MOST_VARIATION, max(0.0, self._square.value / size**2 - 1)) if size else 0.0
        return Demand(
            self._rate.value,
            self._start.value,
            self._answer.value,
            variation,
            self._unlike.value,
            self._forcing.value,
        )
