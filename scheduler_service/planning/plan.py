"""From the predictions of a window to its allocations, by one plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from scheduler_service.allocation import Plan, Policy, Problem, make_plan
from scheduler_service.allocation.policy import Ints, spread_evenly
from scheduler_service.allocation.shares import max_min_shares
from scheduler_service.domain import Allocation, Job, Prediction, PredictionOutcome


@dataclass(frozen=True)
class Rules:
    """What every window is planned by. ``answer_tokens``: the most answer tokens of a request.

    ``shares``: weights of tenants that are guaranteed a share of every window; the others weigh 1. Empty: no shares.
    """

    policy: Policy
    answer_tokens: int
    budget_window_tokens: int = 16
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WindowPlan:
    """A window's allocations, in the order of its jobs, and the plan behind them. ``total``: tokens it might spend."""

    allocations: list[Allocation]
    total: int
    planned: int
    saved_at_equal_accuracy: float


def plan_window(jobs: Sequence[Job], predictions: Sequence[Prediction], total: int, rules: Rules) -> WindowPlan:
    """Split ``total`` tokens across ``jobs``. Jobs without a fresh prediction get the uniform budget.

    Floors that the total cannot pay for are lowered together; caps end at the last window that is predicted. With
    shares, the total is first split among the tenants of the window, by weighted max-min fairness.
    """
    tenants = sorted({job.tenant for job in jobs})
    if not rules.shares or len(tenants) == 1:
        return _plan(jobs, predictions, total, rules)
    rows = {tenant: [at for at, job in enumerate(jobs) if job.tenant == tenant] for tenant in tenants}
    demands = {tenant: sum(jobs[at].cap_tokens for at in own) for tenant, own in rows.items()}
    shares = max_min_shares(total, demands, rules.shares)
    planned: dict[int, Allocation] = {}
    saved = 0.0
    for tenant, own in rows.items():
        part = _plan([jobs[at] for at in own], [predictions[at] for at in own], shares[tenant], rules)
        planned.update(zip(own, part.allocations, strict=True))
        saved += part.saved_at_equal_accuracy * len(own) / len(jobs)
    allocations = [planned[at] for at in range(len(jobs))]
    return WindowPlan(allocations, total, sum(allocation.budget_tokens for allocation in allocations), saved)


def _plan(jobs: Sequence[Job], predictions: Sequence[Prediction], total: int, rules: Rules) -> WindowPlan:
    width = rules.budget_window_tokens
    known = np.array([prediction.outcome is PredictionOutcome.FRESH for prediction in predictions])
    caps = np.array([job.cap_tokens for job in jobs], dtype=np.int64)
    windows = max((len(prediction.curve) for prediction in predictions if prediction.curve), default=0)
    windows = max(windows, -(-int(caps.max()) // width))
    curves = np.array([extended(prediction.curve, windows) for prediction in predictions])
    floors = np.array([job.floor_tokens for job in jobs], dtype=np.int64)
    if int(floors.sum()) > total:
        floors = spread_evenly(np.zeros_like(floors), floors, total, step=1)
    problem = Problem(curves, floors, caps, total, width)
    plan = make_plan(rules.policy, problem, known)
    allocations = [_allocation(job, predictions[at], plan, at, rules, floors, len(jobs)) for at, job in enumerate(jobs)]
    return WindowPlan(allocations, total, int(plan.budgets.sum()), plan.saved_at_equal_accuracy)


def extended(curve: Sequence[float], windows: int) -> list[float]:
    """A curve of ``windows`` values: beyond what is predicted nothing more is expected to be gained."""
    last = curve[-1] if curve else 0.0
    return [*curve, *[last] * (windows - len(curve))]


def _allocation(
    job: Job, prediction: Prediction, plan: Plan, at: int, rules: Rules, floors: Ints, size: int
) -> Allocation:
    return Allocation(
        request_id=job.request_id,
        budget_tokens=int(plan.budgets[at]),
        baseline_tokens=int(plan.baselines[at]),
        answer_tokens=rules.answer_tokens,
        floor_tokens=int(floors[at]),
        cap_tokens=job.cap_tokens,
        policy=plan.policy,
        prediction=prediction,
        expected_accuracy=float(plan.expected[at]),
        baseline_expected_accuracy=float(plan.baseline_expected[at]),
        budget_window_tokens=rules.budget_window_tokens,
        window_size=size,
        saved_at_equal_accuracy_tokens=plan.saved_at_equal_accuracy,
    )
