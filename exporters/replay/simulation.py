"""Replay measured curves through the scheduler's own decisions: windows or a price, a ledger, predictor faults.

What decides here is the service's code: ``RequestWindow``, ``plan_window``'s policies, ``DualPrice`` and
``BudgetLedger``; only time is simulated, and a request's accuracy is read off its measured curve at the budget that it
got. Requests use what the curves file says that they use at their budget, or their whole budget where it says nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.measure.curves import Curves
from exporters.replay.evaluate import Predicted
from scheduler_service.allocation import POLICIES, Curve, Problem, make_plan
from scheduler_service.allocation.price import DualPrice
from scheduler_service.allocation.problem import accuracy_at, used_at
from scheduler_service.budget.income import Income, PerSecond
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.planning.pricing import affordable, bought
from scheduler_service.planning.window import RequestWindow

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ORDERS = ("shuffled", "easy-first", "hard-first")
_TRACE_POINTS = 200


@dataclass(frozen=True, eq=False)
class Traffic:
    """Requests: when they come (n,) in seconds, rising, and which question each asks (n,)."""

    arrivals: Floats
    questions: Ints

    def __post_init__(self) -> None:
        """Refuse times that fall, or are none; raises ValueError."""
        fall = not np.isfinite(self.arrivals).all() or (np.diff(self.arrivals) < 0).any()
        if len(self.arrivals) != len(self.questions) or not len(self.arrivals) or fall:
            raise ValueError("arrivals: must be rising times, one for each question asked")


def poisson(count: int, rate: float, rng: np.random.Generator) -> Floats:
    """Arrival times of ``count`` requests that come independently, ``rate`` a second."""
    return np.cumsum(rng.exponential(1 / rate, count))


def bursts(count: int, rate: float, rng: np.random.Generator, size: float = 40.0) -> Floats:
    """Arrival times in bursts of about ``size`` requests within a tenth of a second, ``rate`` a second on average."""
    starts = np.cumsum(rng.exponential(size / rate, max(1, int(count / size * 1.5) + 1)))
    which = np.sort(rng.integers(0, max(1, int(np.ceil(count / size))), count))
    times: Floats = np.sort(starts[which] + rng.uniform(0, 0.1, count))
    return times


def ask(accuracy: Floats, count: int, order: str, rng: np.random.Generator) -> Ints:
    """Which of the questions (n, K) each of ``count`` requests asks: drawn again and again, or sorted by difficulty."""
    if order not in ORDERS:
        raise ValueError(f"--order: {order!r} is none of {', '.join(ORDERS)}")
    drawn: Ints = rng.integers(0, len(accuracy), count)
    if order == "shuffled":
        return drawn
    ease = accuracy[drawn].mean(axis=1)
    return drawn[np.argsort(-ease if order == "easy-first" else ease, kind="stable")]


@dataclass(frozen=True)
class Scenario:
    """How the scheduler is set. ``policy``: one of windows, or ``price``; ``replicas`` share budget and traffic.

    ``tokens_per_second`` above 0 replaces the mean budget a query. ``faults``: share of requests whose prediction
    fails. ``prediction_seconds``: of a window or a request. ``seconds_per_token``: until unused tokens return.
    """

    policy: str = "price"
    tokens_per_query: int = 64
    tokens_per_second: float = 0.0
    window_size: int = 32
    window_seconds: float = 0.02
    adaptive: bool = True
    replicas: int = 1
    faults: float = 0.0
    bank_requests: float = 128.0
    burst_requests: float = 10.0
    prediction_seconds: float = 0.0
    seconds_per_token: float = 0.02


@dataclass
class Result:
    """What happened. Accuracies are fractions, times seconds.

    ``tokens_per_query``: mean budget; ``used_tokens_per_query``: mean of what was used; ``spend``: tokens used by
    tokens granted. ``uniform``: accuracy of the mean budget for all, which used ``uniform_used_tokens_per_query``.
    ``trace``: (time, mean tokens used so far, price) along the way, of the first replica.
    """

    requests: int
    accuracy: float
    uniform: float
    tokens_per_query: float
    used_tokens_per_query: float
    uniform_used_tokens_per_query: float
    spend: float
    mean_window: float
    mean_wait: float
    p99_wait: float
    coverage: float
    trace: list[tuple[float, float, float]] = field(default_factory=list)

    @property
    def gain(self) -> float:
        """Accuracy over uniform at the same mean budget, a fraction."""
        return self.accuracy - self.uniform

    def as_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return {**asdict(self), "gain": self.gain}


def simulate(predicted: Predicted, measured: Curves, traffic: Traffic, scenario: Scenario, seed: int = 0) -> Result:
    """Replay ``traffic`` over questions with predicted and measured curves, at the same points."""
    rng = np.random.default_rng(seed)
    count = len(traffic.arrivals)
    fresh = (rng.random(count) >= scenario.faults) & predicted.covered[traffic.questions]
    budgets, used, waits = np.zeros(count, np.int64), np.zeros(count), np.zeros(count)
    windows, granted, trace = 0, 0.0, []
    for replica in range(scenario.replicas):
        own = np.arange(replica, count, scenario.replicas)
        run = _Replica(predicted, measured, traffic, scenario, fresh)
        for rows, closed, given, spent in run.decisions(own):
            budgets[rows], used[rows] = given, spent
            waits[rows] = closed - traffic.arrivals[rows] + scenario.prediction_seconds
            windows += 1
        granted += run.granted
        if not replica:
            trace = run.trace
    asked = traffic.questions
    level = min(int(measured.points[-1]), budgets.mean() if scenario.tokens_per_second else scenario.tokens_per_query)
    return Result(
        requests=count,
        accuracy=_mean_accuracy(measured, asked, budgets),
        uniform=_mean_accuracy(measured, asked, np.full(count, level)),
        tokens_per_query=float(budgets.mean()),
        used_tokens_per_query=float(used.mean()),
        uniform_used_tokens_per_query=float(level)
        if measured.used is None
        else float(used_at(measured.points, measured.used, level)[asked].mean()),
        spend=float(used.sum()) / max(1.0, granted),
        mean_window=count / max(1, windows),
        mean_wait=float(waits.mean()),
        p99_wait=float(np.quantile(waits, 0.99)),
        coverage=float(fresh.mean()),
        trace=trace,
    )


def _mean_accuracy(measured: Curves, asked: Ints, budgets: Floats | Ints, block: int = 65536) -> float:
    """Mean measured accuracy at the budgets, block by block: a million requests need no million curves in memory."""
    total = 0.0
    for at in range(0, len(asked), block):
        part = slice(at, at + block)
        total += float(accuracy_at(measured.points, measured.accuracy[asked[part]], budgets[part]).sum())
    return total / len(asked)


class _Replica:
    """One scheduler: its window or price, its ledger, and the requests that run."""

    def __init__(
        self, predicted: Predicted, measured: Curves, traffic: Traffic, scenario: Scenario, fresh: NDArray[np.bool_]
    ) -> None:
        self._predicted, self._traffic, self._scenario, self._fresh = predicted, traffic, scenario, fresh
        self._measured, self._points = measured, measured.points
        mean = scenario.tokens_per_query
        rate = scenario.tokens_per_second / scenario.replicas
        income: Income | None = PerSecond(rate) if rate else None
        self._cap = int(self._points[-1])
        self._floor = min(int(self._points[0]), mean)
        priced = scenario.policy == "price"
        self._ledger = BudgetLedger(
            mean, int(scenario.bank_requests * mean), int(scenario.burst_requests * mean) if priced else 0, income
        )
        self._running: list[tuple[float, str, float]] = []
        self._used, self._decided = 0.0, 0
        self.granted = 0.0
        self.trace: list[tuple[float, float, float]] = []

    def decisions(self, own: Ints) -> Iterator[tuple[Ints, float, Ints, Floats]]:
        """Yield the requests decided together, when, their budgets, and what they will use."""
        every = max(1, len(own) // _TRACE_POINTS)
        for rows, now in self._priced(own) if self._scenario.policy == "price" else self._windows(own):
            given, used, price = self._decide(rows, now)
            self._used += float(used.sum())
            if self._decided // every != (self._decided + len(rows)) // every:
                self.trace.append((now, self._used / (self._decided + len(rows)), price))
            self._decided += len(rows)
            yield rows, now, given, used

    def _priced(self, own: Ints) -> Iterator[tuple[Ints, float]]:
        self._pricing = DualPrice()
        points, used = tuple(self._points.tolist()), self._predicted.used
        spent = [()] * len(self._predicted.accuracy) if used is None else [tuple(row) for row in used.tolist()]
        rows = zip(self._predicted.accuracy.tolist(), spent, strict=True)
        self._curves = [Curve(points, tuple(accuracy), use) for accuracy, use in rows]
        yield from zip(own[:, None], self._traffic.arrivals[own].tolist(), strict=True)

    def _windows(self, own: Ints) -> Iterator[tuple[Ints, float]]:
        scenario = self._scenario
        self._policy = POLICIES[scenario.policy]
        window: RequestWindow[int] = RequestWindow(scenario.window_size, scenario.window_seconds, scenario.adaptive)
        for row, now in zip(own.tolist(), self._traffic.arrivals[own].tolist(), strict=True):
            due = window.due_at()
            if due is not None and now >= due:
                yield np.array(window.close()), due
            if closed := window.add(row, now):
                yield np.array(closed), now
        if rest := window.close():
            yield np.array(rest), float(self._traffic.arrivals[rest[0]]) + scenario.window_seconds

    def _decide(self, rows: Ints, now: float) -> tuple[Ints, Floats, float]:
        while self._running and self._running[0][0] <= now:
            _, name, used = heapq.heappop(self._running)
            self._ledger.settle(name, used)
        grant = self._ledger.grant(len(rows), now)
        self.granted += grant
        priced = self._scenario.policy == "price"
        given, expected, price = self._price(int(rows[0]), grant) if priced else self._plan(rows, now)
        names = [str(row) for row in rows.tolist()]
        self._ledger.reserve(dict(zip(names, expected.tolist(), strict=True)), 0, now)
        spent = self._use(rows, given)
        for name, tokens in zip(names, spent.tolist(), strict=True):
            heapq.heappush(self._running, (now + tokens * self._scenario.seconds_per_token, name, tokens))
        return given, spent, price

    def _use(self, rows: Ints, budgets: Ints) -> Floats:
        """Tokens that requests use of their budgets."""
        if self._measured.used is None:
            return budgets.astype(np.float64)
        return used_at(self._points, self._measured.used[self._traffic.questions[rows]], budgets)

    def _price(self, row: int, grant: float) -> tuple[Ints, Floats, float]:
        ledger, mean = self._ledger, self._scenario.tokens_per_query
        floor, budget = affordable(self._floor, mean, self._cap, grant, ledger.bank, ledger.overdraft)
        expected = float(budget)
        if self._fresh[row]:
            curve = self._curves[self._traffic.questions[row]]
            budget = bought(self._pricing, curve, floor, self._cap, grant, ledger.bank, ledger.overdraft)
            expected = curve.used_at(budget)
        return np.array([budget]), np.array([expected]), min(1.0, self._pricing.price)

    def _plan(self, rows: Ints, now: float) -> tuple[Ints, Floats, float]:
        count, total = len(rows), self._ledger.available(len(rows), now)
        asked = self._traffic.questions[rows]
        floors = np.full(count, min(self._floor, int(total // count)))
        used = None if self._predicted.used is None else self._predicted.used[asked]
        problem = Problem(self._points, self._predicted.accuracy[asked], floors, np.full(count, self._cap), total, used)
        plan = make_plan(self._policy, problem, self._fresh[rows])
        return plan.budgets, plan.costs, 0.0
