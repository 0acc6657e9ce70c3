"""Replays a load through a policy of budgets on a simulated fleet: what was late, what was right, what was refused.

Questions have predicted curves, on which policies decide, and measured ones, which say how many tokens a budget really
used and how likely the answer was right. Only engines and time are simulated: what decides is the service's code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from exporters.measure.curves import Curves
from exporters.replay.engine_simulation import EngineKind, Fleet, Running
from exporters.replay.evaluate import Predicted
from exporters.replay.load import Change, Load
from scheduler_service.allocation import Curve
from scheduler_service.allocation.problem import accuracy_at, used_at
from scheduler_service.control.capacity import Bounds
from scheduler_service.control.learning import Observation
from scheduler_service.control.objectives import Measure, Objective

Floats = NDArray[np.float64]
_TICK = 1.0
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Questions:
    """What is asked: ``measured`` curves say what becomes of a budget, ``predicted`` ones, at their points, decide."""

    measured: Curves
    predicted: Predicted

    @cached_property
    def curves(self) -> list[Curve]:
        """The predicted curves, one a question."""
        points, used = tuple(self.measured.points.tolist()), self.predicted.used
        accuracy = self.predicted.accuracy.tolist()
        spent = [()] * len(accuracy) if used is None else [tuple(row) for row in used.tolist()]
        return [Curve(points, tuple(row), use) for row, use in zip(accuracy, spent, strict=True)]

    @property
    def mean_use(self) -> Floats:
        """Tokens (K,) that each point is predicted to use, on average over the questions."""
        used = self.predicted.used
        return self.measured.points.astype(np.float64) if used is None else used.mean(axis=0)


@dataclass(frozen=True)
class Setup:
    """A fleet of ``replicas`` of a ``kind``, the ``objective`` that it holds, ``bounds`` of its mean budget, and the
    ``floor`` of each request in reasoning tokens.
    """

    kind: EngineKind
    replicas: int
    objective: Objective
    bounds: Bounds
    floor: int


class BudgetPolicy(Protocol):
    """Decides the requests of a load. ``mean`` and ``price`` are what it goes by now, for pictures."""

    @property
    def mean(self) -> float:
        """Mean budget, in tokens that are used."""
        ...

    @property
    def price(self) -> float:
        """Accuracy per token; 0 for none."""
        ...

    def decide(self, key: int, curve: Curve, weight: float, in_flight: int, now: float) -> int | None:
        """The budget of a request in reasoning tokens; ``None`` refuses it. ``key`` is the load's row."""
        ...

    def ended(self, key: int, used: float) -> None:
        """Take note that a request has ended, and what it used of its budget."""
        ...

    def observe(self, seen: Observation, now: float) -> None:
        """Take what was seen in the last second."""
        ...


@dataclass(frozen=True)
class Second:
    """One second of a simulation. ``offered``: requests that came; ``running``, ``waiting``: at its end."""

    at: float
    offered: int
    running: int
    waiting: int
    mean: float
    price: float


@dataclass(eq=False)
class Outcome:
    """What became of a load's requests, all (n,): ``budgets`` (−1: refused), ``used`` reasoning tokens, ``accuracy``,
    and ``seconds`` of the objective's measure (infinite where refused).
    """

    budgets: NDArray[np.int64]
    used: Floats
    accuracy: Floats
    seconds: Floats
    trace: list[Second] = field(default_factory=list)

    @property
    def refused(self) -> NDArray[np.bool_]:
        """Which were refused."""
        return self.budgets < 0


def outside(load: Load, outcome: Outcome, objective: Objective, *, window: float, reaction: float) -> float:
    """The share of the time in which the objective did not hold.

    Time is cut into windows; in each, no more than 1 − quantile of the requests that came in it, and were taken, may be
    late. Requests that run at a step of the load, or come within ``reaction`` seconds after it, do not count: nobody
    could have known.
    """
    counts = ~outcome.refused
    for step in load.steps:
        counts &= (load.arrivals + outcome.seconds < step) | (load.arrivals >= step + reaction)
    late = outcome.seconds > objective.seconds
    places = (load.arrivals // window).astype(int)
    came = np.bincount(places[counts])
    missed = np.bincount(places[counts & late], minlength=len(came))
    windows = came > 0
    may = (1 - objective.quantile) * came[windows] + _ROUNDING
    return float((missed[windows] > may).mean()) if windows.any() else 0.0


def simulate_load(load: Load, questions: Questions, setup: Setup, policy: BudgetPolicy) -> Outcome:
    """Replay ``load`` until its last request has ended."""
    return _Simulation(load, questions, setup, policy).run()


class _Simulation:
    """One replay. Events are arrivals, seconds, and changes of the fleet, in the order of time."""

    def __init__(self, load: Load, questions: Questions, setup: Setup, policy: BudgetPolicy) -> None:
        self._load, self._questions, self._policy = load, questions, policy
        self._fleet, self._objective = Fleet(setup.kind, setup.replicas), setup.objective
        measured = questions.measured
        points = tuple(measured.points.tolist())
        spent = [()] * len(measured.ids) if measured.used is None else [tuple(row) for row in measured.used.tolist()]
        self._truth = [Curve(points, (0.0,) * len(points), row) for row in spent]
        count = len(load.arrivals)
        self._budgets = np.full(count, -1, np.int64)
        self._seconds = np.full(count, inf)
        self._rows: dict[Running, int] = {}
        self._trace: list[Second] = []
        self._changes = sorted(load.changes, key=lambda change: change.at)
        self._at = self._tick_at = self._busy = self._generated = 0.0
        self._offered = 0
        self._ended: list[Running] = []

    def run(self) -> Outcome:
        """Go through the load until its last request has ended."""
        load = self._load
        for row, now in enumerate(load.arrivals.tolist()):
            self._until(now)
            self._offered += 1
            self._come(row, now)
        while self._rows:
            self._until(self._at + _TICK)
        measured, asked, budgets = self._questions.measured, load.questions, np.maximum(self._budgets, 0)
        accuracy = accuracy_at(measured.points, measured.accuracy[asked], budgets) * (self._budgets >= 0)
        used = budgets.astype(np.float64)
        if measured.used is not None:
            used = used_at(measured.points, measured.used[asked], budgets)
        return Outcome(self._budgets, used, accuracy, self._seconds, self._trace)

    def _until(self, now: float) -> None:
        while True:
            change = self._changes[0].at if self._changes else inf
            due = min(self._tick_at + _TICK, change)
            if due > now:
                break
            self._advance(due)
            if change <= due:
                self._change(self._changes.pop(0))
            else:
                self._tick(due)
        self._advance(now)

    def _change(self, change: Change) -> None:
        if change.speed:
            self._fleet.replicas[change.replica].speed = change.speed
        else:
            self._fleet.lose(change.replica, change.at)

    def _advance(self, now: float) -> None:
        self._busy += (now - self._at) * self._fleet.running
        self._at = now
        for request in self._fleet.advance(now):
            row = self._rows.pop(request)
            self._seconds[row] = self._measure(request)
            self._ended.append(request)
            self._policy.ended(row, float(request.size - request.answer))

    def _measure(self, request: Running) -> float:
        return request.total if self._objective.measure is Measure.TOTAL else request.first - request.came

    def _come(self, row: int, now: float) -> None:
        load = self._load
        question, answer = int(load.questions[row]), int(load.answers[row])
        curve = self._questions.curves[question]
        budget = self._policy.decide(row, curve, float(load.weights[row]), len(self._rows), now)
        if budget is None:
            return
        self._budgets[row] = budget
        size = max(1, round(self._truth[question].used_at(budget)) + answer)
        request = Running(int(load.prompts[row]), size, now, curve.used_at(budget) + answer, answer)
        self._rows[request] = row
        self._fleet.put(request, now)

    def _tick(self, now: float) -> None:
        fleet, before = self._fleet, self._tick_at
        started = [
            request.first - request.slot for request in (*self._rows, *self._ended) if before < request.first <= now
        ]
        seen = Observation(
            seconds=now - before,
            arrivals=self._offered,
            running=self._busy / (now - before),
            waiting=fleet.waiting,
            tokens=fleet.generated - self._generated,
            outstanding=fleet.outstanding,
            slots=fleet.slots,
            start=sum(started) / len(started) if started else None,
            paces=[(request.ended - request.slot) / request.size for request in self._ended],
            answers=[request.answer for request in self._ended],
            sizes=[request.size for request in self._ended],
            measured={self._objective: [self._measure(request) for request in self._ended]},
        )
        self._policy.observe(seen, now)
        self._trace.append(
            Second(now, self._offered, fleet.running, fleet.waiting, self._policy.mean, self._policy.price)
        )
        self._generated, self._busy, self._offered, self._ended = fleet.generated, 0.0, 0, []
        self._tick_at = now
