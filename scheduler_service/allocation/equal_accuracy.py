"""What a stream of decisions saves: the uniform budget that would be expected to be as accurate, less what was given.

For a window it is exact (``plan.make_plan``); a stream has no end, so its means are those of the last decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler_service.allocation.curve import Curve

_EQUAL = 0.001  # accuracies count as equal within a tenth of a point, as in a window


@dataclass
class EqualAccuracy:
    """Means over a stream: curves, expected accuracies and expected use; a decision fades over ``memory`` later ones.

    The mean curve lies at the points of the first curve; later ones are read there.
    """

    memory: int = 200
    decisions: int = 0
    expected: float = 0.0
    cost: float = 0.0
    _points: tuple[int, ...] = ()
    _accuracy: list[float] = field(default_factory=list)
    _used: list[float] = field(default_factory=list)

    def add(self, curve: Curve, cost: float, expected: float) -> float:
        """Count a decision; returns the tokens a request that are saved now, 0 at least.

        ``cost``: tokens that the request is expected to use; ``expected``: its expected accuracy. Where no uniform
        budget reaches the accuracy, uniform is charged for its own best: a lower bound.
        """
        if not self._points:
            self._points = curve.points
            self._accuracy, self._used = [0.0] * len(curve.points), [0.0] * len(curve.points)
        self.decisions += 1
        share = 1 / min(self.decisions, self.memory)
        for at, (reached, used) in enumerate(
            zip(curve.accuracies(self._points), curve.uses(self._points), strict=True)
        ):
            self._accuracy[at] += share * (reached - self._accuracy[at])
            self._used[at] += share * (used - self._used[at])
        self.expected += share * (expected - self.expected)
        self.cost += share * (cost - self.cost)
        return max(0.0, self._uniform_cost() - self.cost)

    def _uniform_cost(self) -> float:
        """The least that a uniform budget is expected to use to reach the mean expected accuracy, or its own best."""
        enough = min(self.expected, max(self._accuracy, default=0.0)) - _EQUAL
        below, spent = 0.0, 0.0
        for reached, used in zip(self._accuracy, self._used, strict=True):
            if reached >= enough:
                within = (enough - below) / (reached - below) if reached > below else 0.0
                return spent + max(0.0, within) * (used - spent)
            below, spent = reached, used
        return spent
