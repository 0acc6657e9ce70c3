"""From the prediction of one request to its allocation, by the price. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from scheduler_service.allocation.curve import Curve
from scheduler_service.allocation.equal_accuracy import EqualAccuracy
from scheduler_service.allocation.price import DualPrice
from scheduler_service.domain import Allocation, Job, Prediction, PredictionOutcome

_GUARD_DECISIONS = 50  # that the guard looks back on; before, it has seen too little to judge


@dataclass
class Pricing:
    """Decides requests one by one: the price, and a guard that watches what it is expected to gain over uniform.

    ``baseline_tokens``: what uniform gives. The guard takes uniform while the expected gain of recent decisions, taken
    or not, is negative: with predictions of worth it never is, since no plan of the same spend is expected to gain
    more. Gains count by the weight of their requests, as they do for the price.
    """

    baseline_tokens: int
    answer_tokens: int
    dual: DualPrice
    expected_gain: float = 0.0
    decisions: int = 0
    mean_tokens: float = field(init=False)
    _saved: EqualAccuracy = field(default_factory=EqualAccuracy)

    def __post_init__(self) -> None:
        """Start with a mean that stays until ``follow`` says otherwise."""
        self.mean_tokens = self.baseline_tokens

    @property
    def quoted(self) -> float:
        """The price for display; 0 while none is known."""
        return self.dual.price if self.dual.price < 1 else 0.0

    def follow(self, mean_tokens: float) -> None:
        """Have ``mean_tokens`` as the mean budget from now on: what requests are granted, and what uniform gives."""
        self.dual.grant_changes(mean_tokens - self.mean_tokens)
        self.mean_tokens, self.baseline_tokens = mean_tokens, int(mean_tokens)

    def times_the_price_at(self, mean_tokens: float) -> float | None:
        """How many times as much a token costs now as at a mean budget of ``mean_tokens``; 1 or more if that is larger.

        Both by what requests have asked for so far, apart from what the account owes or has saved. ``None`` where
        nothing was asked yet, or where tokens are for nothing, or not to be had, at one of the two.
        """
        now, there = self.dual.granted_more(0.0), self.dual.granted_more(mean_tokens - self.mean_tokens)
        return now / there if there > 0 and now < inf else None

    def decide(self, job: Job, prediction: Prediction, *, grant: float, balance: float, overdraft: float) -> Allocation:
        """Allocate one job.

        ``grant``: tokens earned with it; ``balance``: what the bank holds, negative for a debt; ``overdraft``: the debt
        up to which more than the floor may be bought. All in tokens that budgets are expected to use.
        """
        curve = prediction.curve
        floor, baseline = affordable(job.floor_tokens, self.baseline_tokens, job.cap_tokens, grant, balance, overdraft)
        budget, policy, expected, uniform, saved = baseline, "uniform", 0.0, 0.0, 0.0
        if prediction.outcome is PredictionOutcome.FRESH:
            priced = bought(self.dual, curve, floor, job.cap_tokens, grant, balance, overdraft, job.weight)
            expected, uniform = curve.accuracy_at(priced), curve.accuracy_at(baseline)
            self.decisions += 1
            gain = job.weight * (expected - uniform)
            self.expected_gain += (gain - self.expected_gain) / min(self.decisions, _GUARD_DECISIONS)
            if self.expected_gain >= 0 or self.decisions < _GUARD_DECISIONS:
                budget, policy = priced, "price"
            else:
                expected = uniform
            saved = self._saved.add(curve, curve.used_at(budget), expected)
        return Allocation(
            request_id=job.request_id,
            budget_tokens=budget,
            baseline_tokens=baseline,
            answer_tokens=self.answer_tokens,
            floor_tokens=floor,
            cap_tokens=job.cap_tokens,
            policy=policy,
            prediction=prediction,
            expected_accuracy=expected,
            baseline_expected_accuracy=uniform,
            expected_tokens=curve.used_at(budget),
            window_size=1,
            saved_at_equal_accuracy_tokens=saved,
            price=self.quoted if policy == "price" else 0.0,
        )


def bought(
    dual: DualPrice,
    curve: Curve,
    floor: int,
    cap: int,
    grant: float,
    balance: float,
    overdraft: float,
    weight: float = 1.0,
) -> int:
    """Return the budget that is bought at the price, from the ``floor`` that is ``affordable``, as far as it goes."""
    limit = max(0.0, grant + balance + overdraft - curve.used_at(floor))
    return dual.decide(curve, floor, cap, grant, balance, limit, weight)


def affordable(floor: int, baseline: int, cap: int, grant: float, balance: float, overdraft: float) -> tuple[int, int]:
    """What the account pays of a request's floor, and of the budget that uniform would give it.

    The floor is paid from the request's own grant, whatever the account owes: its use is the floor at most, so it never
    adds to a debt. Uniform's budget is paid as far as grant, balance and overdraft go.
    """
    floor = min(floor, int(max(grant, grant + balance + overdraft, 0.0)))
    return floor, max(floor, min(baseline, cap, int(max(0.0, grant + balance + overdraft))))
