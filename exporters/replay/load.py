"""Loads for simulated fleets: who asks what and when, and what becomes of the replicas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rate = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Change:
    """At ``at`` seconds replica ``replica`` has ``speed``; 0: it is lost."""

    at: float
    replica: int
    speed: float


@dataclass(frozen=True, eq=False)
class Load:
    """Requests (n,) by time. ``arrivals``: seconds, rising. ``questions``: which is asked. ``prompts``, ``answers``:
    tokens. ``weights``: what a right answer is worth. ``changes``: of the fleet. ``steps``: seconds at which the load,
    or the fleet, changes at once, so that a reaction is due.
    """

    arrivals: Floats
    questions: Ints
    prompts: Ints
    answers: Ints
    weights: Floats
    seconds: float
    changes: tuple[Change, ...] = ()
    steps: tuple[float, ...] = ()


@dataclass(frozen=True)
class Shape:
    """A load's shape. ``rate``: requests a second by seconds (vectorised), as a multiple of the capacity."""

    name: str
    seconds: float
    rate: Rate
    changes: tuple[Change, ...] = ()
    steps: tuple[float, ...] = ()
    weighted: bool = False

    def draw(self, capacity: float, questions: int, rng: np.random.Generator) -> Load:
        """Draw requests: a Poisson process of this rate, by thinning.

        Prompts have 100 to 400 tokens, answers 32 to 96. Weights are those of the efforts, 1/4 to 4, where the shape
        is ``weighted``, and 1 otherwise.
        """
        highest = capacity * float(self.rate(np.linspace(0, self.seconds, 2000)).max())
        times = np.sort(rng.uniform(0, self.seconds, rng.poisson(highest * self.seconds)))
        times = times[rng.uniform(0, highest, len(times)) < capacity * self.rate(times)]
        count = len(times)
        return Load(
            times,
            rng.integers(0, questions, count),
            rng.integers(100, 401, count),
            rng.integers(32, 97, count),
            np.exp2(rng.integers(-2, 3, count).astype(np.float64)) if self.weighted else np.ones(count),
            self.seconds,
            self.changes,
            self.steps,
        )


def shapes(stretch: float = 1.0) -> list[Shape]:
    """The loads of the comparison, ``stretch`` times as long as the shortest that show something.

    Half load; a step from 0.5 to 2 times the capacity and back, with equal and with unequal weights; a day in two
    minutes; bursts of four seconds at random times; at 1.0, one replica of two lost, and one at half its speed.
    """
    t = stretch
    up, down, end = 40 * t, 160 * t, 200 * t

    def level(height: float) -> Rate:
        return lambda at: np.full_like(at, height)

    def step(at: Floats) -> Floats:
        return np.where((at >= up) & (at < down), 2.0, 0.5)

    def day(at: Floats) -> Floats:
        height: Floats = 1.25 - 0.75 * np.cos(2 * np.pi * at / (120 * t))
        return height

    starts = np.cumsum(np.random.default_rng(7).uniform(8 * t, 24 * t, 12))

    def bursts(at: Floats) -> Floats:
        since = at[:, None] - starts
        height: Floats = np.where((since >= 0) & (since < 4 * t), 3.0, 0.6).max(axis=1)
        return height

    lost, slow = (Change(up, 0, speed) for speed in (0.0, 0.5))
    return [
        Shape("half", 60 * t, level(0.5)),
        Shape("step", end, step, steps=(up,)),
        Shape("step, weights", end, step, steps=(up,), weighted=True),
        Shape("diurnal", 120 * t, day),
        Shape("bursts", 120 * t, bursts),
        Shape("replica lost", 100 * t, level(1.0), (lost,), (up,)),
        Shape("replica slow", 100 * t, level(1.0), (slow,), (up,)),
        Shape("beyond floors", end, lambda at: 2.5 * step(at), steps=(up,)),
    ]
