"""Tables of results, and the figure that most of them hold: points over uniform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporters.curves import WINDOW_TOKENS
from exporters.evaluate import plan_problem
from scheduler_service.allocation import POLICIES, accuracy_at, make_plan

Floats = NDArray[np.float64]
BUDGETS = (32, 64, 96, 128, 192)


@dataclass(frozen=True)
class Table:
    """A table of results: column names and rows of text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def gains(predicted: Floats, measured: Floats, budgets: Sequence[int] = BUDGETS) -> list[float]:
    """Points over uniform of the guarded envelope plan, at each mean budget."""
    everyone = np.ones(len(measured), dtype=bool)
    found = []
    for budget in budgets:
        plan = make_plan(POLICIES["envelope"], plan_problem(predicted, budget), everyone)
        planned, uniform = (accuracy_at(measured, b, WINDOW_TOKENS).mean() for b in (plan.budgets, plan.baselines))
        found.append(100 * float(planned - uniform))
    return found


def points(values: Sequence[float]) -> list[str]:
    """Points as they stand in a table."""
    return [f"{value:+.1f}" for value in values]
