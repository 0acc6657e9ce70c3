"""The service level objectives: what counts, what of it is good, and how much must be.

An SLO is a ratio of bad to all events. Alerts are on how fast its error budget burns, over two windows each, so that
they are quick where it burns fast and end soon after it has stopped (Google's SRE Workbook, chapter 5).
"""

from __future__ import annotations

from dataclasses import dataclass

OWN = "predictive_scheduling_"
_FAULTS = "UNAVAILABLE|INTERNAL|UNKNOWN|DATA_LOSS|UNIMPLEMENTED"


@dataclass(frozen=True)
class Slo:
    """``bad`` and ``total``: PromQL of events a second, ``{range}`` standing for the window. ``objective``: 0 to 1."""

    name: str
    title: str
    objective: float
    bad: str
    total: str
    summary: str


@dataclass(frozen=True)
class Burn:
    """An alert: burning ``factor`` times as fast as the objective allows, over both windows, for ``hold``."""

    severity: str
    factor: float
    long: str
    short: str
    hold: str


BURNS = (
    Burn("page", 14.4, "1h", "5m", "2m"),
    Burn("page", 6.0, "6h", "30m", "15m"),
    Burn("ticket", 1.0, "3d", "6h", "1h"),
)
RANGES = ("5m", "30m", "1h", "6h", "3d")


def _slower(metric: str, seconds: str) -> tuple[str, str]:
    total = f"sum by (job) (rate({metric}_count[{{range}}]))"
    return f'{total} - sum by (job) (rate({metric}_bucket{{le="{seconds}"}}[{{range}}]))', total


_CALLS = "rpc_server_call_duration_seconds_count"
_PREDICTION = _slower(f"{OWN}prediction_duration_seconds", "0.05")
_ADDED = _slower(f"{OWN}added_latency_seconds", "0.05")

SLOS = (
    Slo(
        "availability",
        "Availability",
        0.999,
        f'sum by (job) (rate({_CALLS}{{rpc_response_status_code=~"{_FAULTS}"}}[{{range}}]))',
        f"sum by (job) (rate({_CALLS}[{{range}}]))",
        "calls end with a fault of the service",
    ),
    Slo("prediction_latency", "Prediction latency", 0.99, *_PREDICTION, "predictions take longer than 50 ms"),
    Slo("added_latency", "Added latency", 0.99, *_ADDED, "scheduling adds more than 50 ms to requests"),
    Slo(
        "coverage",
        "Coverage",
        0.95,
        f'sum by (job) (rate({OWN}predictions_total{{outcome!="fresh"}}[{{range}}]))',
        f"sum by (job) (rate({OWN}predictions_total[{{range}}]))",
        "requests get the uniform budget, because they have no fresh prediction",
    ),
    Slo(
        "net_benefit",
        "Net benefit",
        0.8,
        f'sum by (job) (rate({OWN}net_benefit_requests_total{{against="equal_accuracy",sign="negative"}}[{{range}}]))',
        f'sum by (job) (rate({OWN}net_benefit_requests_total{{against="equal_accuracy"}}[{{range}}]))',
        "scheduling takes longer than the tokens that it saves",
    ),
)


def ratio_name(slo: Slo, window: str) -> str:
    """The recording rule that holds an SLO's ratio of bad events over a window."""
    return f"slo:{OWN}{slo.name}:error_ratio_rate{window}"


def alert_name(slo: Slo) -> str:
    """The alert's name, as in ``PredictiveSchedulingCoverageBurns``."""
    return "PredictiveScheduling" + "".join(word.capitalize() for word in slo.name.split("_")) + "Burns"
