"""From a closed window to its allocations: pure, one call per window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler_service.allocation import Plan, Policy, Problem, make_plan
from scheduler_service.allocation.policy import Ints, spread_evenly
from scheduler_service.domain import Allocation, Job, Prediction, PredictionOutcome


@dataclass(frozen=True)
class Rules:
    """What every window is planned by. ``answer_tokens``: the most answer tokens of a request."""

    policy: Policy
    answer_tokens: int
    budget_window_tokens: int = 16


@dataclass(frozen=True)
class WindowPlan:
    """A window's allocations, in the order of its jobs, and the plan behind them. ``total``: tokens it might spend."""

    allocations: list[Allocation]
    total: int
    planned: int
    saved_at_equal_accuracy: float


def plan_window(jobs: Sequence[Job], predictions: Sequence[Prediction], total: int, rules: Rules) -> WindowPlan:
    """Split ``total`` tokens across ``jobs``. Jobs without a fresh prediction get the uniform budget.

    Floors that the total cannot pay for are lowered together; caps end at the last window that is predicted.
    """
    width = rules.budget_window_tokens
    known = np.array([prediction.outcome is PredictionOutcome.FRESH for prediction in predictions])
    caps = np.array([job.cap_tokens for job in jobs], dtype=np.int64)
    windows = max((len(prediction.curve) for prediction in predictions if prediction.curve), default=0)
    windows = max(windows, -(-int(caps.max()) // width))
    curves = np.array([_extended(prediction.curve, windows) for prediction in predictions])
    floors = np.array([job.floor_tokens for job in jobs], dtype=np.int64)
    if int(floors.sum()) > total:
        floors = spread_evenly(np.zeros_like(floors), floors, total, step=1)
    problem = Problem(curves, floors, caps, total, width)
    plan = make_plan(rules.policy, problem, known)
    allocations = [_allocation(job, predictions[at], plan, at, rules, floors, len(jobs)) for at, job in enumerate(jobs)]
    return WindowPlan(allocations, total, int(plan.budgets.sum()), plan.saved_at_equal_accuracy)


def _extended(curve: Sequence[float], windows: int) -> list[float]:
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
