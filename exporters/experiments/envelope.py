"""The figure of ``docs/allocation.md``: two curves, their envelopes, and what a price buys."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from predictive_scheduling.budget_points import evenly_spaced
from scheduler_service.allocation.curve import Curve
from scheduler_service.allocation.envelope import segments_of

_WIDTH = 16
_CURVES = {
    "steady": (0.22, 0.38, 0.5, 0.59, 0.66, 0.71, 0.75, 0.78, 0.8, 0.815),
    "late": (0.05, 0.04, 0.06, 0.1, 0.32, 0.62, 0.74, 0.77, 0.78, 0.785),
}


def envelope_figure(price: float = 0.003) -> Figure:
    """Draw both curves from one window on; segments that are steeper than ``price`` are bought."""
    drawing = Figure(figsize=(9, 3.2))
    for axis, (name, curve) in zip(drawing.subplots(1, 2, sharey=True), _CURVES.items(), strict=True):
        places = _WIDTH * np.arange(1, len(curve) + 1)
        axis.plot(places, curve, "o-", color="#8a93a3", markersize=4, label="predicted curve")
        at, value = _WIDTH, curve[0]
        whole = Curve(evenly_spaced(len(curve), _WIDTH), curve)
        for slope, tokens, end in segments_of(whole, _WIDTH, _WIDTH * len(curve)):
            bought = slope >= price
            axis.plot(
                [at, end], [value, value + slope * tokens], color="#2563eb" if bought else "#dc2626",
                linewidth=2.5 if bought else 1.2, linestyle="-" if bought else "--",
            )  # fmt: skip
            at, value = end, value + slope * tokens
        axis.plot([], [], color="#2563eb", linewidth=2.5, label=f"envelope, steeper than {price} a token: bought")
        axis.plot([], [], color="#dc2626", linestyle="--", label="flatter: left to others")
        axis.set_title(name)
        axis.set_xlabel("reasoning tokens")
    drawing.axes[0].set_ylabel("expected accuracy")
    drawing.axes[0].legend(frameon=False, fontsize="small", loc="lower right")
    drawing.tight_layout()
    return drawing
