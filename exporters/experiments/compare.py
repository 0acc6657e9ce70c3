"""Several predictors side by side, from what ``evaluate`` wrote for each."""

from __future__ import annotations

from collections.abc import Mapping

from exporters.experiments.table import Table, points
from exporters.replay.evaluate import Evaluation

BUDGETS = (32, 48, 64, 80, 96, 128, 160, 192, 224, 256)


def compare(evaluations: Mapping[str, Evaluation], policy: str = "envelope") -> Table:
    """Points over uniform of each predictor by budget; last, the oracles of the first one's questions."""
    rows = []
    for name, found in evaluations.items():
        gained = [100 * at.policies[policy].gain for at in found.budgets if at.tokens_per_query in BUDGETS]
        rows.append([name, f"{found.pearson:.3f}", *points(gained)])
    wanted = [at for at in next(iter(evaluations.values())).budgets if at.tokens_per_query in BUDGETS]
    split = [100 * (at.oracle_split - at.uniform) for at in wanted if at.oracle_split is not None]
    if len(split) == len(wanted):  # one sample has no halves
        rows.append(["oracle that plans on one half of the samples", "", *points(split)])
    rows.append(["oracle that sees what scores it", "", *points([100 * (at.oracle - at.uniform) for at in wanted])])
    return Table(["predictor", "r", *[str(budget) for budget in BUDGETS]], rows)
