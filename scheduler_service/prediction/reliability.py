"""How far a predictor is to be trusted, learned from the outcomes that callers report. Pure arithmetic.

Theory of operation. An outcome is a score s (1 right, 0 wrong) of a request for which accuracy e was expected. Were the
predictor perfect, s − m would be e − m on average, m being the mean accuracy. The slope of the regression of s − m on
e − m, from 0 to 1, is how much of a predicted difference is real: the factor by which curves are shrunk toward the mean
curve (the empirical Bayes shrinkage of James and Stein). It starts from 1, what validation said, with the weight of
some outcomes, and older outcomes fade. At slope 0 every query has the mean curve, and every plan is expected to do as
well as uniform at most.

A change is found by the Page–Hinkley test (Page 1954) on |s − e|: when its running sum exceeds its minimum by a
threshold, the predictor is worse than it was. Then the past is dropped and the prior with it, so that the slope is
learned anew from what happens now.
"""

from __future__ import annotations

from dataclasses import dataclass

_PRIOR_OUTCOMES = 30.0
_PRIOR_VARIANCE = 0.05  # of predicted accuracies: (e − m)² of the shipped predictors
_DOUBT_OUTCOMES = 5.0


@dataclass
class PageHinkley:
    """Finds that a mean has risen. ``tolerance``: rises that do not count; ``threshold``: the sum that is too much."""

    tolerance: float = 0.02
    threshold: float = 8.0
    warm_up: int = 30
    _count: int = 0
    _mean: float = 0.0
    _sum: float = 0.0
    _least: float = 0.0

    def add(self, value: float) -> bool:
        """Add a value; returns whether the mean has risen, and then starts anew."""
        self._count += 1
        self._mean += (value - self._mean) / self._count
        self._sum += value - self._mean - self.tolerance
        self._least = min(self._least, self._sum)
        if self._count < self.warm_up or self._sum - self._least <= self.threshold:
            return False
        self._count, self._mean, self._sum, self._least = 0, 0.0, 0.0, 0.0
        return True


@dataclass
class Reliability:
    """What outcomes say of one predictor. ``half_life``: outcomes after which one counts half."""

    half_life: float = 500.0
    outcomes: int = 0
    mean_expected: float = 0.0
    mean_score: float = 0.0
    drifts: int = 0
    _product: float = _PRIOR_OUTCOMES * _PRIOR_VARIANCE
    _power: float = _PRIOR_OUTCOMES * _PRIOR_VARIANCE
    _weight: float = 0.0
    _recent_expected: float = 0.0
    _recent_score: float = 0.0
    _drift: PageHinkley | None = None

    def __post_init__(self) -> None:
        """Start the test for drift."""
        self._drift = self._drift or PageHinkley()

    @property
    def slope(self) -> float:
        """The share of a predicted difference that is real, 0 to 1: what curves are shrunk by."""
        return min(1.0, max(0.0, self._product / self._power))

    @property
    def recent_error(self) -> float:
        """Mean expected accuracy less mean score of the last outcomes; 0 before any."""
        return self._recent_expected - self._recent_score

    def add(self, expected: float, score: float) -> bool:
        """Count an outcome; returns whether it shows a drift, after which only new outcomes count."""
        self.outcomes += 1
        self.mean_expected += (expected - self.mean_expected) / self.outcomes
        self.mean_score += (score - self.mean_score) / self.outcomes
        fade = 0.5 ** (1 / self.half_life)
        self._weight = self._weight * fade + 1
        self._recent_expected += (expected - self._recent_expected) / self._weight
        self._recent_score += (score - self._recent_score) / self._weight
        distance = expected - self._recent_expected
        self._product = self._product * fade + distance * (score - self._recent_score)
        self._power = self._power * fade + distance * distance
        if self._drift is None or not self._drift.add(abs(score - expected)):
            return False
        self.drifts += 1
        self._weight, self._recent_expected, self._recent_score = 0.0, 0.0, 0.0
        self._power = _DOUBT_OUTCOMES * _PRIOR_VARIANCE
        self._product = 0.5 * self._power
        return True
