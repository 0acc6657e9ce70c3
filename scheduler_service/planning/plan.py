"""From the predictions of a window to its allocations, by one plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scheduler_service.allocation import POLICIES, Plan, Policy, make_plan
from scheduler_service.allocation.problem import Ints, gather, spread_evenly
from scheduler_service.allocation.shares import max_min_shares
from scheduler_service.domain import Allocation, Job, Prediction, PredictionOutcome


@dataclass(frozen=True)
class Rules:
    """What every window is planned by. ``answer_tokens``: the most answer tokens of a request.

    ``shares``: weights of tenants that are guaranteed a share of every window; the others weigh 1. Empty: no shares.
    """

    policy: Policy
    answer_tokens: int
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WindowPlan:
    """A window's allocations, in the order of its jobs, and the plan behind them.

    ``total``: tokens that it may be expected to use; ``planned``: tokens that it is expected to use.
    """

    allocations: list[Allocation]
    total: float
    planned: float
    saved_at_equal_accuracy: float


def plan_window(
    jobs: Sequence[Job], predictions: Sequence[Prediction], total: float, rules: Rules, grant: float = 0.0
) -> WindowPlan:
    """Split ``total`` tokens across ``jobs``. Jobs without a fresh prediction get the uniform budget.

    What is to be as large as can be is the sum of the jobs' expected accuracies, each times its ``weight``.
    Tokens are those that budgets are expected to use; a budget counts whole where that is not known. Floors that the
    total cannot pay for are lowered together; what ``grant``, the window's own, pays of them is paid whatever the
    account owes, and then nothing else is bought, so that no debt grows; nor is it with nothing to spend, though it may
    be expected to use nothing. With shares, the total is first split among
    the tenants of the window, by weighted max-min fairness.
    """
    floors = sum(job.floor_tokens for job in jobs)
    indebted = total < min(floors, grant) or total <= 0
    if indebted:
        total = min(floors, max(0.0, grant))
    tenants = sorted({job.tenant for job in jobs})
    if not rules.shares or len(tenants) == 1:
        return _plan(jobs, predictions, total, rules, indebted)
    rows = {tenant: [at for at, job in enumerate(jobs) if job.tenant == tenant] for tenant in tenants}
    demands = {tenant: sum(jobs[at].cap_tokens for at in own) for tenant, own in rows.items()}
    shares = max_min_shares(int(total), demands, rules.shares)
    planned: dict[int, Allocation] = {}
    saved = 0.0
    for tenant, own in rows.items():
        part = _plan([jobs[at] for at in own], [predictions[at] for at in own], shares[tenant], rules, indebted)
        planned.update(zip(own, part.allocations, strict=True))
        saved += part.saved_at_equal_accuracy * len(own) / len(jobs)
    allocations = [planned[at] for at in range(len(jobs))]
    return WindowPlan(allocations, total, sum(allocation.expected_tokens for allocation in allocations), saved)


def _plan(
    jobs: Sequence[Job], predictions: Sequence[Prediction], total: float, rules: Rules, indebted: bool
) -> WindowPlan:
    known = np.array([prediction.outcome is PredictionOutcome.FRESH for prediction in predictions])
    floors = np.array([job.floor_tokens for job in jobs], dtype=np.int64)
    caps = floors if indebted else np.array([job.cap_tokens for job in jobs], dtype=np.int64)
    nothing = np.zeros_like(floors)
    curves, weights = [prediction.curve for prediction in predictions], [job.weight for job in jobs]
    problem = gather(curves, nothing, caps, total, weights)
    if float(problem.cost(floors).sum()) > total:
        floors = spread_evenly(nothing, floors, total, 1, problem.cost)
    plan = make_plan(rules.policy, replace(problem, floors=floors), known, POLICIES["uniform"])
    allocations = [_allocation(job, predictions[at], plan, at, rules, floors, len(jobs)) for at, job in enumerate(jobs)]
    return WindowPlan(allocations, total, float(plan.costs.sum()), plan.saved_at_equal_accuracy)


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
        expected_tokens=float(plan.costs[at]),
        window_size=size,
        saved_at_equal_accuracy_tokens=plan.saved_at_equal_accuracy,
    )
