"""Budgets that follow the load, so that latency objectives hold.

Theory of operation. Once a second the controller is told what was seen since, and returns the mean budget of the next
requests, the longest budget that one of them may have, and the share of them that must be refused. Three things act on
one another, none faster than the others can bear (docs/objectives.md has the argument):

1. *Where to operate*: the highest concurrency n* at which the model (``capacity``) predicts the objectives' quantiles
   within the objectives. More throughput than there cannot be had in time.
2. *What budget leads there*: what keeps n* at the present arrival rate, less a part of what is promised too much. With
   B the tokens that are promised and not yet generated, B* those at n*, D = D(n*) − (B − B*) / (rate · horizon). B
   answers to budgets at once, so this contracts by 1/horizon a second. The horizon is a quarter of the objective where
   too little is promised, or more than ends in half of the time that is left; between them it is sixteen: a
   queue that harms nobody is not worth much reasoning.
3. *How wrong the model is*: the objective that the model is given is corrected slowly (``correction``).

Steps are bounded, alike in both directions. While nothing was seen of the engines, requests get the most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scheduler_service.control.capacity import Bounds, Engine, Operation
from scheduler_service.control.correction import Correction
from scheduler_service.control.learning import LONGEST_SECONDS, Learner, Observation
from scheduler_service.control.objectives import Measure, Objective

_STEP = 2.0  # most change of the mean budget in a second, as a factor
_LEAST_HORIZON = 4.0  # seconds; four observations, see the stability argument
_URGENT, _PATIENT = 0.25, 16.0  # horizons, by the shortest objective's seconds
_LONG = 2.0  # for the sake of throughput, the longest budget is not pressed below so many mean ones
_LONGEST_RETRY = 60.0
_GRID = 48


@dataclass(frozen=True)
class Decision:
    """What holds until the next observation.

    ``mean``: the mean budget, ``longest``: the largest one that still ends in time, by tenant and under ``""`` for all;
    in reasoning tokens. ``refuse``: the share of requests that must be refused, least valuable first, and
    ``retry_seconds`` until there is room if no others come instead. ``load``: what the largest mean budget would take
    of the fleet, 1 for all of it. ``predicted``: the quantile of each objective, in seconds.
    """

    mean: float
    longest: Mapping[str, float]
    refuse: float = 0.0
    retry_seconds: float = 0.0
    load: float = 0.0
    predicted: Mapping[Objective, float] = field(default_factory=dict)

    def longest_of(self, tenant: str) -> float:
        """The longest budget of a request of ``tenant``, in reasoning tokens."""
        return min(self.longest[""], self.longest.get(tenant, math.inf))


class Controller:
    """Holds ``objectives`` by mean budgets within ``bounds``. Raises ValueError without an objective."""

    def __init__(self, objectives: Sequence[Objective], bounds: Bounds) -> None:
        """Start at the most, with nothing seen."""
        if not objectives:
            raise ValueError("objectives: needs one at least")
        self._bounds, self._mean = bounds, bounds.most
        self._corrections = {objective: Correction(objective) for objective in objectives}
        self._shortest = min(objective.seconds for objective in objectives)
        self._learner = Learner(max(objective.quantile for objective in objectives), self._shortest)

    @property
    def corrections(self) -> dict[Objective, float]:
        """How much of each objective's time the model is given; 1 where it predicts what is measured."""
        return {objective: correction.value for objective, correction in self._corrections.items()}

    def observe(self, seen: Observation, now: float) -> Decision:
        """Take what was seen up to ``now`` (seconds of one clock) and return what follows from it."""
        engine = self._learner.learn(seen)
        saturated = self._mean >= self._bounds.most
        for objective, correction in self._corrections.items():
            correction.follow(seen.measured.get(objective, ()), now, seen.seconds, saturated=saturated)
        if not engine.line.known:
            return Decision(self._bounds.most, {"": self._bounds.cap})
        target = self._target(engine)
        wanted, refuse, retry = self._wanted(engine, target, seen.outstanding)
        most_change = _STEP ** min(seen.seconds, LONGEST_SECONDS)
        mean = min(self._mean * most_change, max(self._mean / most_change, wanted))
        self._mean = min(self._bounds.most, max(self._bounds.least, mean))
        if self._mean > self._bounds.least:  # budgets give way first
            refuse = retry = 0.0
        tokens = self._mean + engine.demand.answer
        running = max(seen.running, engine.running_at(tokens, 1 - refuse))
        present = running + seen.waiting
        return Decision(
            mean=self._mean,
            longest=self._longest(engine, present, tokens),
            refuse=refuse,
            retry_seconds=retry,
            load=engine.demand.rate * (self._bounds.most + engine.demand.answer) / engine.throughput_at(target.running),
            predicted={
                objective: self._predicted(engine, present, tokens, tokens, objective)
                for objective in self._corrections
            },
        )

    def _predicted(self, engine: Engine, present: float, tokens: float, longest: float, objective: Objective) -> float:
        if objective.measure is Measure.FIRST_TOKEN:
            return engine.first_token_at(present, tokens, objective.quantile)
        return engine.total_at(present, tokens, longest, objective.quantile)

    def _left(self, engine: Engine, running: float) -> float:
        """Seconds that the objectives leave where so many run, by budgets that keep them so many within the bounds."""
        bounds, answer = self._bounds, engine.demand.answer
        mean = min(bounds.most, max(bounds.least, engine.tokens_at(running) - answer))
        longest = min(bounds.cap, _LONG * mean) + answer
        return min(
            correction.seconds - self._predicted(engine, running, mean + answer, longest, objective)
            for objective, correction in self._corrections.items()
        )

    def _target(self, engine: Engine) -> Operation:
        """Where to operate: the highest concurrency that leaves time, or one request where none does."""
        best, slack = 1.0, 0.0
        for step in range(_GRID + 1):
            running = engine.slots ** (step / _GRID)
            left = self._left(engine, running)
            if left >= 0:
                best, slack = running, left
        tokens = engine.tokens_at(best)
        usual = min(tokens, self._bounds.most + engine.demand.answer)
        # Of requests that run, half is still to come, and more of those that are longer than others.
        outstanding = best * usual * (1 + engine.demand.variation) / 2
        return Operation(best, tokens, outstanding, slack)

    def _wanted(self, engine: Engine, target: Operation, promised: float) -> tuple[float, float, float]:
        """The mean budget that leads there; where it is below the least, which share to refuse, and for how long."""
        rate, answer = engine.demand.rate, engine.demand.answer
        if rate <= 0:
            return self._bounds.most, 0.0, 0.0
        throughput = engine.throughput_at(target.running)
        too_many = promised - target.outstanding
        late = max(0.0, too_many - throughput * target.slack / 2)
        at_once = min(0.0, too_many) + late
        horizon = max(_LEAST_HORIZON, _URGENT * self._shortest)
        in_time = target.tokens - at_once / (rate * horizon)
        tokens = in_time - (too_many - at_once) / (rate * max(_LEAST_HORIZON, _PATIENT * self._shortest))
        least = self._bounds.least + answer
        if in_time >= least:
            return tokens - answer, 0.0, 0.0
        spare = throughput - rate * least
        retry = late / spare if spare > 0 else promised / throughput
        # What still ends in time may wait: a short rise is not worth a refusal.
        filled = min(1.0, max(0.0, too_many / (throughput * max(target.slack / 2, horizon))))
        refuse = min(1.0, 1 - in_time / least) * filled
        return self._bounds.least, refuse, min(_LONGEST_RETRY, max(1.0, retry))

    def _longest(self, engine: Engine, present: float, tokens: float) -> dict[str, float]:
        """The longest budgets that end in time, by tenant, with so many requests here of so many tokens on average."""
        bounds, longest = self._bounds, {"": self._bounds.cap}
        for objective, correction in self._corrections.items():
            if objective.measure is Measure.TOTAL:
                room = engine.tokens_within(correction.seconds, present, tokens, objective.quantile)
                room = min(bounds.cap, max(bounds.least, room - engine.demand.answer))
                longest[objective.of] = min(longest.get(objective.of, bounds.cap), room)
        return longest
