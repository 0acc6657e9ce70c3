"""Allocation policies: pure functions from predicted curves and a total to budgets. No clock, no I/O."""

from scheduler_service.allocation.curve import Curve
from scheduler_service.allocation.envelope import Envelope
from scheduler_service.allocation.exact import Exact
from scheduler_service.allocation.greedy import Greedy
from scheduler_service.allocation.plan import Plan, make_plan
from scheduler_service.allocation.problem import Policy, Problem
from scheduler_service.allocation.uniform import Uniform

# Uniform is what callers would have without us: budgets that add up to the total, whatever is used of them.
POLICIES: dict[str, Policy] = {policy.name: policy for policy in (Uniform(whole=True), Greedy(), Envelope(), Exact())}

__all__ = ["POLICIES", "Curve", "Plan", "Policy", "Problem", "make_plan"]
