"""A load that rises above what an engine can do and falls again, and what became of its questions. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from exporters.demo.tasks import Task
from predictive_scheduling_cli.demo.runner import Result
from predictive_scheduling_cli.demo.summary import percentile

QUANTILE = 0.95
_SPARE = 1.5  # times what questions take with all slots taken, which an objective allows


@dataclass(frozen=True)
class Phase:
    """So many ``seconds`` in which questions come at ``load`` times the capacity."""

    name: str
    seconds: float
    load: float


CALM, BUSY, AFTER = "calm", "busy", "calm again"


def rise_and_fall(before: float, busy: float, after: float) -> tuple[Phase, ...]:
    """Half of the capacity, twice the capacity, and half of it again; each for so many seconds."""
    return Phase(CALM, before, 0.5), Phase(BUSY, busy, 2.0), Phase(AFTER, after, 0.5)


def starts(phases: Sequence[Phase]) -> list[float]:
    """When each of the phases begins, and when the last one ends; in seconds."""
    found = [0.0]
    for phase in phases:
        found.append(found[-1] + phase.seconds)
    return found


def phase_at(phases: Sequence[Phase], at: float) -> Phase:
    """The phase at ``at`` seconds; after the end the last one."""
    return next((one for one, end in zip(phases, starts(phases)[1:], strict=True) if at < end), phases[-1])


def poisson_arrivals(phases: Sequence[Phase], capacity: float, seed: int) -> list[float]:
    """When questions come, in rising seconds: a Poisson process whose rate is that of its phase.

    ``capacity``: questions a second. Raises ValueError where it is not above 0.
    """
    if not capacity > 0:
        raise ValueError("capacity: must be above 0")
    rng = random.Random(seed)  # noqa: S311  (reproducible arrivals, not secrets)
    found: list[float] = []
    for phase, start in zip(phases, starts(phases), strict=False):
        at = start + rng.expovariate(capacity * phase.load)
        while at < start + phase.seconds:
            found.append(at)
            at += rng.expovariate(capacity * phase.load)
    return found


@dataclass(frozen=True)
class Capacity:
    """What an engine does with all of its slots taken: questions a second, and the ``seconds`` that each took."""

    rate: float
    seconds: Sequence[float]

    @property
    def objective(self) -> str:
        """What may be promised here: half as much time again as questions take then, in whole seconds."""
        return f"total p{100 * QUANTILE:g} {math.ceil(_SPARE * percentile(self.seconds, QUANTILE))}s"

    def in_flight(self, objective_seconds: float) -> int:
        """How many may be in flight so that even the slow ones of them are answered in time, one at the least."""
        slow = percentile(self.seconds, QUANTILE) / fmean(self.seconds)
        return max(1, int(self.rate * objective_seconds / slow))


@dataclass(frozen=True)
class Asked:
    """A question that came ``at`` seconds after the beginning. ``result``: ``None`` where it was refused."""

    at: float
    task: Task
    result: Result | None

    @property
    def seconds(self) -> float:
        """How long its answer took; infinite where it was refused."""
        return math.inf if self.result is None else self.result.seconds

    @property
    def right(self) -> bool:
        """Whether it was answered, and right."""
        return self.result is not None and self.result.right


def figures(asked: Sequence[Asked]) -> dict[str, Any]:
    """What became of some questions.

    ``right_of_asked`` counts refused ones as wrong. ``tokens``: of reasoning, a question that was answered. Seconds at
    two quantiles. ``None`` where there were no questions to say it of.
    """
    results = [one.result for one in asked if one.result is not None]
    seconds = [result.seconds for result in results]
    return {
        "asked": len(asked),
        "refused": len(asked) - len(results),
        "right_of_asked": fmean(one.right for one in asked) if asked else None,
        "right_of_served": fmean(result.right for result in results) if results else None,
        "tokens": fmean(result.usage.reasoning_tokens for result in results) if results else None,
        "p50_seconds": percentile(seconds, 0.5) if seconds else None,
        "p99_seconds": percentile(seconds, 0.99) if seconds else None,
    }


def by_phase(asked: Sequence[Asked], phases: Sequence[Phase]) -> dict[str, dict[str, Any]]:
    """The figures of each phase, by when questions came."""
    return {phase.name: figures([one for one in asked if phase_at(phases, one.at) is phase]) for phase in phases}


@dataclass(frozen=True)
class GivenUp:
    """What a kind of question had in calm and in busy times: mean tokens, and the share that was right."""

    family: str
    calm_tokens: float
    busy_tokens: float
    calm_right: float
    busy_right: float

    @property
    def tokens(self) -> float:
        """Tokens that a question of this kind gave up."""
        return self.calm_tokens - self.busy_tokens


def given_up(asked: Sequence[Asked], is_busy: Callable[[float], bool]) -> list[GivenUp]:
    """What each kind of question gave up in busy times, the most first; refused ones have no tokens and are not right.

    ``is_busy``: whether a time, in seconds, is one. Kinds that came in only one of both times are left out.
    """
    rows = []
    for family in dict.fromkeys(one.task.family for one in asked):
        own = [one for one in asked if one.task.family == family]
        calm, busy = ([one for one in own if is_busy(one.at) is wanted] for wanted in (False, True))
        if calm and busy:
            rows.append(GivenUp(family, _tokens(calm), _tokens(busy), _right(calm), _right(busy)))
    return sorted(rows, key=lambda row: -row.tokens)


def _tokens(asked: Sequence[Asked]) -> float:
    return fmean(0 if one.result is None else one.result.usage.reasoning_tokens for one in asked)


def _right(asked: Sequence[Asked]) -> float:
    return fmean(one.right for one in asked)
