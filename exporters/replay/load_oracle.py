"""What control could reach at best: budgets of one who knows arrivals, engines and changes, tuned in hindsight.

For each second the oracle takes the requests that come around it, asks the engines' own model how many tokens they may
use together, and splits these by the best plan over all of them at once (``envelope``). How far it goes, in mean and in
longest budgets, is tried out: the most accurate run counts of those that hold the objective. It has no better
predictions than the others.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from exporters.replay.load import Load
from exporters.replay.load_simulation import Outcome, Questions, Setup
from scheduler_service.allocation import Curve, Problem
from scheduler_service.allocation.envelope import Envelope
from scheduler_service.allocation.problem import Floats, Ints, accuracy_at, used_at
from scheduler_service.control.learning import Observation

MEANS = (0.9, 1.0, 1.03, 1.06, 1.1, 1.25, 1.4)
LONGEST = (0.5, 0.7, 0.9)


class Planned:
    """Budgets that were planned before the load came; a budget below 0 refuses."""

    price = 0.0

    def __init__(self, budgets: Ints, means: Floats) -> None:
        """``budgets``: (n,) of the load's rows. ``means``: (seconds,) of each second, for pictures."""
        self._budgets, self._means = budgets.tolist(), means
        self.mean = float(means[0])

    def decide(self, key: int, curve: Curve, weight: float, in_flight: int, now: float) -> int | None:
        """As planned."""
        budget = int(self._budgets[key])
        return None if budget < 0 else budget

    def ended(self, key: int, used: float) -> None:
        """Nothing is kept."""

    def observe(self, seen: Observation, now: float) -> None:
        """Only tell what was planned."""
        self.mean = float(self._means[min(int(now), len(self._means) - 1)])


class Oracle:
    """Plans for a load."""

    def __init__(self, load: Load, questions: Questions, setup: Setup) -> None:
        """Know everything."""
        self._load, self._setup = load, setup
        self._points, self._predicted = questions.measured.points, questions.predicted

    def best(self, run: Callable[[Planned], Outcome], held: Callable[[Outcome], float], limit: float) -> Outcome:
        """The most accurate run that is outside the objective for ``limit`` of the time at most; else the one least so.

        ``held``: the share of the time in which an outcome is outside.
        """
        found = [run(self.plan(mean, longest)) for mean, longest in product(MEANS, LONGEST)]
        shares = [held(outcome) for outcome in found]
        allowed = max(limit, min(shares))
        good = [outcome for outcome, share in zip(found, shares, strict=True) if share <= allowed]
        return max(good, key=lambda outcome: float((outcome.accuracy * self._load.weights).sum()))

    def plan(self, mean: float, longest: float) -> Planned:
        """Plan with so much of the tokens that fit, and so much of the time for the longest budget."""
        load, bounds, half = self._load, self._setup.bounds, self._setup.objective.seconds / 4
        budgets = np.full(len(load.arrivals), -1, np.int64)
        means = np.zeros(int(np.ceil(load.seconds)) + 1)
        for second in range(len(means)):
            own = (load.arrivals >= second) & (load.arrivals < second + 1)
            around = (load.arrivals >= second + 0.5 - half) & (load.arrivals < second + 0.5 + half)
            around |= own
            rows = np.flatnonzero(around)
            passed = min(load.seconds, second + 0.5 + half) - max(0.0, second + 0.5 - half)
            tokens, most, share = self._room(len(rows) / passed, second + 0.5, longest)
            means[second] = min(bounds.most, max(bounds.least, mean * tokens))
            if not own.any():
                continue
            taken = self._taken(rows, min(1.0, mean * share if share < 1 else 1.0))
            given = np.full(len(rows), -1, np.int64)
            given[taken] = self._split(rows[taken], means[second], most)
            budgets[own] = given[own[rows]]
        return Planned(budgets, means)

    def _room(self, rate: float, at: float, longest: float) -> tuple[float, float, float]:
        """What fits at a rate (a second) and time: mean and longest reasoning tokens, and the share of requests."""
        speeds = [1.0] * self._setup.replicas
        for change in self._load.changes:
            if change.at <= at:
                speeds[change.replica] = change.speed
        alive = [speed for speed in speeds if speed]
        kind, bounds, answer = self._setup.kind, self._setup.bounds, float(self._load.answers.mean())
        step = kind.alone + kind.each * kind.slots
        prefill = float(self._load.prompts.mean()) / kind.prefill / sum(alive)  # seconds of the fleet for each request
        token = step / kind.slots / sum(alive)
        share = min(1.0, 1 / (max(rate, 1e-9) * (prefill + (bounds.least + answer) * token)))
        rate = max(1e-9, rate * share)
        left = 1 - rate * prefill
        tokens = left / token / rate
        used = min(tokens, bounds.most + answer)
        running = min(kind.slots, rate * used * step / left / sum(alive))
        pace = (kind.alone + kind.each * running) / left / min(alive)
        most = longest * self._setup.objective.seconds / pace - answer
        return tokens - answer, min(bounds.cap, max(bounds.least, most)), share

    def _taken(self, rows: Ints, share: float) -> NDArray[np.bool_]:
        """Which of the requests come in: the most valuable ones."""
        asked = self._load.questions[rows]
        least, used = float(self._setup.bounds.least), self._predicted.used
        cost = least if used is None else np.maximum(1.0, used_at(self._points, used[asked], least))
        worth = self._load.weights[rows] * accuracy_at(self._points, self._predicted.accuracy[asked], least) / cost
        taken = np.zeros(len(rows), bool)
        taken[np.argsort(-worth, kind="stable")[: round(share * len(rows))]] = True
        return taken

    def _split(self, rows: Ints, mean: float, most: float) -> Ints:
        if not len(rows):
            return np.empty(0, np.int64)
        asked = self._load.questions[rows]
        problem = Problem(
            self._points,
            self._predicted.accuracy[asked],
            np.full(len(rows), min(self._setup.floor, int(most))),
            np.full(len(rows), int(most)),
            mean * len(rows),
            None if self._predicted.used is None else self._predicted.used[asked],
            self._load.weights[rows],
        )
        return Envelope(spread=False).allocate(problem)
