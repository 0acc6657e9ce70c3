"""Tables of results, and the figure that most of them hold: points over uniform."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from exporters.measure.curves import window_points
from exporters.replay.evaluate import plan_problem
from scheduler_service.allocation import POLICIES, Policy, make_plan
from scheduler_service.allocation.problem import accuracy_at

Floats = NDArray[np.float64]
_NUMBER = re.compile(r"[0-9.]+")
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

    def lines(self, labels: int, x_label: str, y_label: str = "points over uniform") -> Figure:
        """Return a plot with a line per row, named by its first ``labels`` cells; the other heads are x."""
        drawing, axis = _axes(x_label, y_label)
        places = [float(_NUMBER.search(name)[0]) for name in self.head[labels:]]  # type: ignore[index]
        for row in self.rows:
            cells = [(place, float(cell)) for place, cell in zip(places, row[labels:], strict=True) if cell]
            name = ", ".join(cell for cell in row[:labels] if cell)
            axis.plot(*zip(*cells, strict=True), "o-", markersize=3, label=name)
        axis.axhline(0, color="#8a93a3", linewidth=1)
        axis.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        return drawing

    def columns(self, x_label: str, y_label: str, first: int = 1) -> Figure:
        """Return a plot with a line per column from ``first`` on, over the numbers in the first column."""
        drawing, axis = _axes(x_label, y_label)
        places = [float(row[0]) for row in self.rows]
        for at, name in enumerate(self.head[first:], start=first):
            axis.plot(places, [float(row[at]) for row in self.rows], "o-", markersize=3, label=name)
        axis.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        return drawing


def _axes(x_label: str, y_label: str) -> tuple[Figure, Any]:
    drawing = Figure(figsize=(7, 3.4))
    axis = drawing.subplots()
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    return drawing, axis


def save(drawing: Figure, path: Path) -> None:
    """Write a plot, the same bytes for the same plot."""
    with rc_context({"svg.hashsalt": "experiments"}):
        drawing.savefig(path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)


def gains(
    predicted: Floats, measured: Floats, budgets: Sequence[int] = BUDGETS, policy: Policy = POLICIES["envelope"]
) -> list[float]:
    """Points over uniform of a guarded plan, at each mean budget; curves at 16, 32, … tokens."""
    everyone, places = np.ones(len(measured), dtype=bool), window_points(measured.shape[1])
    found = []
    for budget in budgets:
        plan = make_plan(policy, plan_problem(places, predicted, budget), everyone)
        planned, uniform = (accuracy_at(places, measured, b).mean() for b in (plan.budgets, plan.baselines))
        found.append(100 * float(planned - uniform))
    return found


def points(values: Sequence[float]) -> list[str]:
    """Points as they stand in a table."""
    return [f"{value:+.1f}" for value in values]
