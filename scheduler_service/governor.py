"""Holds latency objectives: tells the controller once a second what was seen, and makes its decision hold.

Theory of operation. The governor is an observer: it hears of every request that comes and ends. Ten times a second it
looks how many requests hold a slot and how many wait for one; those that a gateway runs hold none here, and count as
running. Once a second it adds up what was generated and what is still promised, hears what other schedulers see and
what the engines say of their own load, in which others may have a part, asks the pure ``Controller``, and applies what
that returns: the mean budget becomes the income of the account and the past of the price, the longest budget a cap of
every request, and where not even the least budgets fit, a share of the requests is refused, those of the least value
first. So all of a decision is in three numbers, and without objectives none of this exists.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from scheduler_service.budget.income import Controlled
from scheduler_service.control.capacity import Bounds
from scheduler_service.control.controller import Controller, Decision
from scheduler_service.control.learning import Observation, quantile_of
from scheduler_service.control.objectives import Measure, Objective
from scheduler_service.control.refusals import LeastValuable
from scheduler_service.domain import Allocation, Job, OverloadedError, Prediction, SchedulingError, Usage
from scheduler_service.generation.engine_signals import Signals
from scheduler_service.pipeline import Pipeline
from scheduler_service.planning.pricing import Pricing
from scheduler_service.shared_load import Load

_SECOND, _LOOKS = 1.0, 10
_PATIENCE_SECONDS = 0.5
_NOTHING = Load()
_DEARER = 1.05  # times the price of a calm fleet, from which on it is said
_MEASURED = 1000  # requests of each objective that are kept to be shown


@dataclass
class _Seen:
    """What was seen since the last observation."""

    arrivals: int = 0
    running: float = 0.0
    waiting: float = 0.0
    looks: int = 0
    starts: list[float] = field(default_factory=list)
    forcings: list[float] = field(default_factory=list)
    paces: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    measured: dict[Objective, list[float]] = field(default_factory=dict)


class Governor:
    """Holds ``objectives`` within ``bounds``. ``decision``: what holds now."""

    def __init__(
        self,
        objectives: Sequence[Objective],
        bounds: Bounds,
        income: Controlled,
        pricing: Pricing | None = None,
        signals: Callable[[], Awaitable[Signals | None]] | None = None,
        exchange: Callable[[Load], Awaitable[Load]] | None = None,
    ) -> None:
        """Set ``income``, and, where requests are priced, what ``pricing`` goes by. ``watch`` must follow.

        ``signals``: what the engines say of their load, where they do. ``exchange``: tells other schedulers of the same
        engines our load, and returns the sum of theirs.
        """
        self._exchange, self.load = exchange, Load()
        self.objectives, self.bounds = tuple(objectives), bounds
        self.decision = Decision(bounds.most, {"": bounds.cap})
        self._controller = Controller(objectives, bounds)
        self._income, self._pricing = income, pricing
        self._refusals = LeastValuable()
        self._pipeline: Pipeline | None = None
        self._signals = signals
        self._generated_there: float | None = None
        self._seen = _Seen()
        self._generated = 0.0
        self._at: float | None = None
        self._recent: dict[Objective, deque[float]] = {one: deque(maxlen=_MEASURED) for one in self.objectives}

    def watch(self, pipeline: Pipeline) -> None:
        """Look at ``pipeline``, which tells this as one of its observers, from now on."""
        self._pipeline = pipeline

    def longest(self, tenant: str) -> float:
        """The most that one request of ``tenant`` may reason and still end in time, in tokens."""
        return self.decision.longest_of(tenant)

    def check(self, job: Job, prediction: Prediction) -> None:
        """Refuse a request that is among the least valuable ones, where some must be. Raises OverloadedError."""
        floor = max(1, job.floor_tokens)
        value = job.weight * prediction.curve.accuracy_at(floor) / max(1.0, prediction.curve.used_at(floor))
        if not self._refusals.admits(value, self.decision.refuse):
            raise OverloadedError(
                "not even the least budgets fit the latency objectives, and others are worth more",
                self.decision.retry_seconds,
            )

    @property
    def refuses(self) -> bool:
        """Whether some requests must be refused now."""
        return self.decision.refuse > 0

    def measured(self, objective: Objective) -> float:
        """The quantile of the last requests that ``objective`` is about, in seconds; 0 where there are none."""
        found = list(self._recent[objective])
        return quantile_of(found, objective.quantile) if found else 0.0

    def note(self) -> str:
        """What a request's explanation adds; empty where everything that the bounds allow fits."""
        if self.decision.mean >= self.bounds.most:
            return ""
        share = self.decision.mean / self.bounds.most
        said = f"; the fleet is at {self.decision.load:.0%}, so budgets are {share:.0%} of the largest mean"
        times = self._pricing.times_the_price_at(self.bounds.most) if self._pricing is not None else None
        if times is None or times < _DEARER:
            return said
        return f"{said}, and a token costs {times:.1f} times as much as when it is calm"

    # What observers are told.

    def rejected(self, job: Job, error: SchedulingError) -> None:
        """Count who came, whether or not there was room."""
        self._seen.arrivals += 1

    def allocated(self, job: Job, allocation: Allocation) -> None:
        """Count who came."""
        self._seen.arrivals += 1

    def finished(self, job: Job, allocation: Allocation, usage: Usage) -> None:
        """Take note of how long it took, and how much it was."""
        seen = self._seen
        for objective in self.objectives:
            if objective.of in ("", job.tenant):
                total = objective.measure is Measure.TOTAL
                seconds = usage.total_seconds if total else usage.time_to_first_token_seconds
                if not seconds:  # nobody tells: it ran elsewhere
                    continue
                seen.measured.setdefault(objective, []).append(seconds)
                self._recent[objective].append(seconds)
        seen.answers.append(usage.answer_tokens / usage.traces)
        seen.sizes.append((usage.reasoning_tokens + usage.answer_tokens) / usage.traces)
        if usage.seconds_per_token:
            seen.paces.append(usage.seconds_per_token)
        if usage.start_seconds:
            seen.starts.append(usage.start_seconds)
            seen.forcings.append(usage.forcing_seconds / usage.traces)

    def failed(self, job: Job, allocation: Allocation | None, reason: str) -> None:
        """A request that ended without an answer tells nothing of how long answers take."""

    def wasted(self, job: Job, tokens: int) -> None:
        """Nothing depends on it."""

    # What happens beside the calls.

    async def run(self) -> None:
        """Observe and decide once a second, until cancelled."""
        while True:
            for _ in range(_LOOKS):
                await asyncio.sleep(_SECOND / _LOOKS)
                self.look()
            others = _NOTHING if self._exchange is None else await self._exchange(self.load)
            self.decide(await self._heard(), others)

    def look(self) -> None:
        """Count who holds a slot now, and who waits for one."""
        slots = self._watched.dispatcher.slots
        self._seen.running += slots.held + self._watched.running_elsewhere
        self._seen.waiting += slots.waiting
        self._seen.looks += 1

    async def _heard(self) -> Signals | None:
        """What the engines say now; ``None`` where they say nothing in time."""
        if self._signals is None:
            return None
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await self._signals()
        except TimeoutError:
            return None

    def decide(self, heard: Signals | None = None, others: Load = _NOTHING) -> None:
        """Tell the controller what was seen since it was last asked, and make its decision hold.

        ``heard``: what the engines say of their load. They run at least what schedulers have there, and what others
        have, too. ``others``: what the other schedulers see.
        """
        pipeline, seen, self._seen = self._watched, self._seen, _Seen()
        now, generated = pipeline.clock(), pipeline.generated
        passed = _SECOND if self._at is None else max(1e-3, now - self._at)
        looks = max(1, seen.looks)
        self.load = Load(
            arrivals=seen.arrivals / passed,
            running=seen.running / looks,
            waiting=seen.waiting / looks,
            tokens=(generated - self._generated) / passed,
            outstanding=pipeline.outstanding,
            slots=pipeline.dispatcher.slots.most,
        )
        fleet = self.load + others
        running, waiting, tokens = fleet.running, fleet.waiting, fleet.tokens * passed
        if heard is not None:
            running, waiting = max(running, heard.running), waiting + heard.waiting
            if heard.generated is not None and self._generated_there is not None:
                tokens = max(tokens, heard.generated - self._generated_there)
        self._generated_there = None if heard is None else heard.generated
        observed = Observation(
            seconds=passed,
            arrivals=fleet.arrivals * passed,
            running=running,
            waiting=waiting,
            tokens=tokens,
            outstanding=fleet.outstanding,
            slots=fleet.slots,
            start=fmean(seen.starts) if seen.starts else None,
            forcing=fmean(seen.forcings) if seen.forcings else None,
            paces=seen.paces,
            answers=seen.answers,
            sizes=seen.sizes,
            measured=seen.measured,
        )
        self._at, self._generated = now, generated
        self.decision = self._controller.observe(observed, now)
        self._income.tokens = self.decision.mean
        if self._pricing is not None:
            self._pricing.follow(self.decision.mean)

    @property
    def _watched(self) -> Pipeline:
        if self._pipeline is None:
            raise RuntimeError("the governor watches no pipeline")
        return self._pipeline
