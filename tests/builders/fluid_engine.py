"""A small engine for the laws of control: requests of a second are alike, and slots, pace and queue are a fluid."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from scheduler_service.control.controller import Controller, Decision
from scheduler_service.control.learning import Observation
from scheduler_service.control.objectives import Objective

ANSWER = 50.0


@dataclass
class Cohort:
    """The requests of one second: how many, when they came, their tokens, and those that each still has to write."""

    count: float
    came: float
    tokens: float
    left: float


@dataclass
class FluidEngine:
    """``alone + each · n`` seconds per token, ``slots``; a controller that learns of it ``delay`` seconds late."""

    controller: Controller
    objective: Objective
    alone: float = 0.005
    each: float = 0.00005
    slots: float = 200.0
    delay: int = 0
    now: float = 0.0
    decision: Decision | None = None
    cohorts: list[Cohort] = field(default_factory=list)
    late: deque[Observation] = field(default_factory=deque)
    means: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def run(self, rate: float, seconds: int, noise: tuple[float, ...] = (1.0,)) -> None:
        """Let requests come at a ``rate`` a second, times each of ``noise`` in turn."""
        for at in range(seconds):
            self._second(rate * noise[at % len(noise)])

    def _second(self, arrivals: float) -> None:
        mean = self.decision.mean if self.decision else 256.0
        refuse = self.decision.refuse if self.decision else 0.0
        tokens = mean + ANSWER
        if arrivals * (1 - refuse) > 0:
            self.cohorts.append(Cohort(arrivals * (1 - refuse), self.now, tokens, tokens))
        ended: list[float] = []
        running, written = 0.0, 0.0
        for _ in range(10):
            free, going = self.slots, []
            for cohort in self.cohorts:
                going.append((cohort, min(free, cohort.count)))
                free -= going[-1][1]
            n = self.slots - free
            running += n / 10
            if n:
                steps = 0.1 / (self.alone + self.each * n)
                for cohort, active in going:
                    part = active / cohort.count
                    written += active * min(steps, cohort.left / max(part, 1e-9))
                    cohort.left -= steps * part
            self.now += 0.1
            for cohort in [cohort for cohort in self.cohorts if cohort.left <= 0]:
                ended += [self.now - cohort.came] * max(1, math.ceil(cohort.count))
                self.cohorts.remove(cohort)
        self.seconds.append(max(ended, default=0.0))
        present = sum(cohort.count for cohort in self.cohorts)
        self.late.append(
            Observation(
                seconds=1.0,
                arrivals=arrivals,
                running=running,
                waiting=max(0.0, present - self.slots),
                tokens=written,
                outstanding=sum(cohort.count * cohort.left for cohort in self.cohorts),
                slots=self.slots,
                start=0.02,
                answers=[ANSWER] if ended else [],
                sizes=[tokens] if ended else [],
                measured={self.objective: ended},
            )
        )
        if len(self.late) > self.delay:
            self.decision = self.controller.observe(self.late.popleft(), self.now)
            self.means.append(self.decision.mean)
            self.shares.append(self.decision.refuse)
