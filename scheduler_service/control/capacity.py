"""A model of the engines behind the scheduler: how long requests take at a load, and what budgets the load allows.

Theory of operation. Engines batch continuously: with n requests running a token takes each of them

    tau(n) = scale · (alone + each · n)

seconds, since a step reads the weights once (``alone``) and does some work for every request (``each``). All replicas
are taken as one engine: ``each`` is then that of a replica by their number. The line is fitted to what is seen, faded
over minutes; ``scale`` follows within seconds, so that a lost or slow replica shows at once in the level, and later in
the line. By Little's law, n = rate · (start + D · tau(n)) for requests of D tokens on average that take ``start``
seconds before their first one, so what D a concurrency n allows is

    D(n) = (n / rate − start) / tau(n),

whose product with the rate, the throughput, rises in n and flattens. The wait for a slot begins beyond ``slots``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

_FADE_SECONDS = 180.0  # after which an observation of the line counts 1/e
_SCALE_SECONDS = 3.0  # the same of the level, at least
_SCALE_STEPS = 50.0  # and at least so many tokens of a stream
_SHAPE = 0.02  # how much spread of the concurrency, squared and relative, weighs as much as the first guess
_MOST_SCALE = 8.0
_LEAST_RUNNING = 0.01  # requests; fewer say nothing


class EngineLine:
    """The time per token of a stream as a function of how many run: ``scale · (alone + each · n)``, fitted online.

    Sums of time are divided by sums of tokens, so that seconds in which engines write little, since they compute
    prompts, count for what they cost.
    """

    def __init__(self) -> None:
        """Start without an observation.

        While only one concurrency was seen, a token is taken to last twice as long with all slots taken as alone.
        """
        self._slots = 1.0
        self._tokens = self._running = self._time = self._square = self._product = 0.0
        self._spent = self._expected = 0.0

    @property
    def known(self) -> bool:
        """Whether anything was observed."""
        return self._tokens > 0

    @property
    def scale(self) -> float:
        """What tokens took in the last seconds by what the line says."""
        if self._spent <= 0:
            return 1.0
        return min(_MOST_SCALE, max(1 / _MOST_SCALE, self._spent / max(self._expected, 1e-300)))

    def observe(self, running: float, tokens: float, seconds: float, slots: float, starting: float = 0.0) -> None:
        """Count that ``running`` requests, on average over ``seconds``, were given ``tokens`` together.

        ``starting``: how many of them waited for a prompt to be computed. Their time is no token's.
        """
        self._slots = slots
        if running < _LEAST_RUNNING or not (self.known or tokens >= 1):
            return
        # Of all requests together. A quarter of it counts in any case: what is known of starts comes late.
        time = max(running / 4, running - starting) * seconds
        if self.known:
            line = self._line(running)
            fade = math.exp(-seconds / max(_SCALE_SECONDS, _SCALE_STEPS * line))
            self._spent, self._expected = fade * self._spent + time, fade * self._expected + tokens * line
        fade = math.exp(-seconds / _FADE_SECONDS)
        self._tokens = fade * self._tokens + tokens
        self._running = fade * self._running + tokens * running
        self._square = fade * self._square + tokens * running * running
        self._time = fade * self._time + time
        self._product = fade * self._product + time * running

    def at(self, running: float) -> float:
        """Seconds per token of each of ``running`` requests; 0 while nothing was observed."""
        return self.scale * self._line(running) if self.known else 0.0

    def parts(self) -> tuple[float, float]:
        """``alone`` and ``each``, in seconds per token, with the scale in them."""
        alone, each = self._fit()
        return self.scale * alone, self.scale * each

    def _line(self, running: float) -> float:
        alone, each = self._fit()
        return alone + each * running

    def _fit(self) -> tuple[float, float]:
        if not self.known:
            return 0.0, 0.0
        mean, pace = self._running / self._tokens, self._time / self._tokens
        spread = max(0.0, self._square / self._tokens - mean * mean)
        along = self._product / self._tokens - mean * pace
        prior = _SHAPE * mean * mean
        each = (along + prior * pace / (mean + self._slots)) / (spread + prior)
        each = min(max(0.0, each), 0.98 * pace / mean)  # neither part is negative
        return pace - each * mean, each


@dataclass(frozen=True)
class Demand:
    """What comes.

    ``rate``: requests a second. ``start``: seconds from a slot to the first token. ``answer``: tokens beside the
    reasoning. ``variation``: of a request's tokens, their standard deviation by their mean, squared. ``unlike``: the
    time per token of the slowest requests by the mean one, since replicas differ. ``forcing``: seconds before a forced
    answer's first token.
    """

    rate: float
    start: float
    answer: float
    variation: float = 0.0
    unlike: float = 1.0
    forcing: float = 0.0

    @property
    def silent(self) -> float:
        """Seconds of a request in its slot in which engines compute its prompts."""
        return self.start + self.forcing


@dataclass(frozen=True)
class Bounds:
    """What the operator allows: the ``least`` and the ``most`` mean budget, and the ``cap`` of one request.

    All in reasoning tokens that are expected to be used; 0 < least <= most <= cap. Raises ValueError otherwise.
    """

    least: float
    most: float
    cap: float

    def __post_init__(self) -> None:
        """Refuse bounds that leave nothing."""
        if not 0 < self.least <= self.most <= self.cap < math.inf:
            raise ValueError("bounds: need 0 < least <= most <= cap")


@dataclass(frozen=True)
class Operation:
    """A point of operation. ``running``: requests at once. ``tokens``: mean tokens a request, answer included, that
    keep them so many. ``outstanding``: tokens that are then promised and not yet generated. ``slack``: the seconds that
    the objectives then leave.
    """

    running: float
    tokens: float
    outstanding: float
    slack: float


def high(count: float, quantile: float) -> float:
    """The ``quantile`` of a Poisson count of mean ``count``, by its normal approximation."""
    return count + NormalDist().inv_cdf(quantile) * math.sqrt(max(0.0, count))


@dataclass(frozen=True)
class Engine:
    """The model at one moment: the line, ``slots`` for requests, and the ``demand``."""

    line: EngineLine
    slots: float
    demand: Demand

    def tokens_at(self, running: float) -> float:
        """Mean tokens a request that keep ``running`` at once; not below 0, infinite without demand."""
        if not self.demand.rate or not self.line.known:
            return math.inf
        return max(0.0, (running / self.demand.rate - self.demand.silent) / self.line.at(running))

    def running_at(self, tokens: float, share: float = 1.0) -> float:
        """How many run at once where a ``share`` of the requests comes in, of ``tokens`` on average."""
        alone, each = self.line.parts()
        rate = self.demand.rate * share
        left = 1 - rate * tokens * each
        return self.slots if left <= 0 else min(self.slots, rate * (self.demand.silent + tokens * alone) / left)

    def wait_at(self, requests: float, tokens: float) -> float:
        """Seconds until a slot, at the slowest replica, behind ``requests`` of ``tokens`` on average."""
        beyond = max(0.0, requests - self.slots) * self.demand.unlike
        return beyond * (self.demand.silent + tokens * self.line.at(self.slots)) / self.slots if beyond else 0.0

    def throughput_at(self, running: float) -> float:
        """Tokens a second that all requests are given together while so many run."""
        return running / self.line.at(running)

    def first_token_at(self, present: float, tokens: float, quantile: float) -> float:
        """Predicted ``quantile`` of the seconds to the first token."""
        return self.demand.start + self._crowded(present, tokens, quantile)[0]

    def total_at(self, present: float, tokens: float, longest: float, quantile: float) -> float:
        """Predicted ``quantile`` of the seconds of requests where the long ones have ``longest`` tokens in all."""
        wait, pace = self._crowded(present, tokens, quantile)
        return self.demand.silent + wait + longest * pace

    def tokens_within(self, seconds: float, present: float, tokens: float, quantile: float) -> float:
        """The tokens in all that a request may have to end within ``seconds``; negative where none may."""
        wait, pace = self._crowded(present, tokens, quantile)
        return (seconds - self.demand.silent - wait) / pace

    def _crowded(self, present: float, tokens: float, quantile: float) -> tuple[float, float]:
        """Seconds until a slot, and per token, of the slowest requests when it is as crowded as at times it is."""
        crowd = high(present, quantile)
        return self.wait_at(crowd, tokens), self.demand.unlike * self.line.at(min(crowd, self.slots))
