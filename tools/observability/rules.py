"""Prometheus's rules: ratios and error budgets recorded, burn rates and states alerted, each with its runbook."""

from __future__ import annotations

from typing import Any

from tools.observability.slos import BURNS, OWN, RANGES, SLOS, Burn, Slo, alert_name, ratio_name

RUNBOOKS = "https://github.com/predictive-scheduling/predictive-scheduling/blob/main/docs/runbooks.md"


def rules() -> dict[str, Any]:
    """Return the rule file."""
    return {
        "groups": [
            {"name": "predictive-scheduling-slo", "rules": [rule for slo in SLOS for rule in _recorded(slo)]},
            {
                "name": "predictive-scheduling-burn",
                "rules": [_burns(slo, burn) for slo in SLOS for burn in BURNS if _can_burn(slo, burn)],
            },
            {"name": "predictive-scheduling-state", "rules": _states()},
        ]
    }


def _recorded(slo: Slo) -> list[dict[str, Any]]:
    ratios = [
        {
            "record": ratio_name(slo, window),
            # Without calls there are no faults: hours without traffic neither keep an old alert nor hide a new one.
            # And no series of bad events are no bad events.
            "expr": f"(({slo.bad}) or 0 * ({slo.total})) / (({slo.total}) > 0)".replace("{range}", window),
        }
        for window in RANGES
    ]
    left = f"1 - {ratio_name(slo, '3d')} / {round(1 - slo.objective, 6):g}"
    return [*ratios, {"record": f"slo:{OWN}{slo.name}:error_budget_remaining", "expr": left}]


def _can_burn(slo: Slo, burn: Burn) -> bool:
    """Whether an SLO can burn that fast at all: a lenient one cannot."""
    return burn.factor * (1 - slo.objective) < 1


def _burns(slo: Slo, burn: Burn) -> dict[str, Any]:
    limit = f"{burn.factor:g} * {round(1 - slo.objective, 6):g}"
    return {
        "alert": alert_name(slo),
        "expr": f"{ratio_name(slo, burn.long)} > {limit} and {ratio_name(slo, burn.short)} > {limit}",
        "for": burn.hold,
        "labels": {"severity": burn.severity, "slo": slo.name, "window": burn.long},
        "annotations": {
            "summary": f"{slo.title}: {{{{ $labels.job }}}} burns its error budget {burn.factor:g} times too fast",
            "description": f"{{{{ $value | humanizePercentage }}}} of the last {burn.long}: {slo.summary} "
            f"(objective {slo.objective:.1%}).",
            "runbook_url": f"{RUNBOOKS}#{alert_name(slo).lower()}",
        },
    }


def _states() -> list[dict[str, Any]]:
    given, due = f"{OWN}budget_given_total", f"{OWN}budget_baseline_total"
    overspend = f"sum by (job) (rate({given}[1h])) / (sum by (job) (rate({due}[1h])) > 0)"
    return [
        _state(
            "BudgetOverspend",
            f"{overspend} > 1.05",
            "15m",
            "page",
            "{{ $labels.job }} reserves more tokens than its budget",
            "Tokens reserved in the last hour, relative to uniform: {{ $value | humanizePercentage }}.",
        ),
        _state(
            "CalibrationDrift",
            f"abs({OWN}calibration_error_ratio) > 0.1 and increase({OWN}outcomes_total[6h]) > 100",
            "30m",
            "ticket",
            "accuracy predicted by {{ $labels.predictor }} differs from reported scores",
            "Mean difference of expected accuracy and reported score: {{ $value | humanizePercentage }}.",
        ),
        _state(
            "PredictorDrifted",
            f"increase({OWN}drifts_total[1h]) > 0",
            "0m",
            "ticket",
            "outcomes no longer fit the predictions of {{ $labels.predictor }}",
            "A drift was found in the last hour; its predictions count less until new outcomes confirm them.",
        ),
        _state(
            "RequestsRejected",
            f"sum by (job) (rate({OWN}requests_rejected_total[5m])) "
            f"> 0.05 * sum by (job) (rate({OWN}predictions_total[5m]))",
            "10m",
            "ticket",
            "{{ $labels.job }} refuses requests",
            "{{ $value | humanize }} requests a second were not admitted.",
        ),
        _state(
            "TooManyInFlight",
            f"{OWN}in_flight / {OWN}in_flight_limit > 0.9",
            "5m",
            "page",
            "{{ $labels.job }} has nearly as many requests in flight as it may",
            "{{ $value | humanizePercentage }} of max_in_flight; requests beyond it are refused.",
        ),
        _state(
            "OverloadedAtFloors",
            f"{OWN}refused_share_ratio > 0",
            "5m",
            "page",
            "{{ $labels.job }} cannot hold its latency objectives by smaller budgets",
            "{{ $value | humanizePercentage }} of the requests are refused, those of the least value first.",
        ),
        _state(
            "EndpointFails",
            f"{OWN}endpoint_failures > 3",
            "2m",
            "ticket",
            "endpoint {{ $labels.endpoint }} of {{ $labels.job }} keeps failing",
            "{{ $value }} failures in a row; other endpoints take its requests.",
        ),
        _state(
            "TrialFails",
            f"increase({OWN}predictor_trial_failures[15m]) > 0",
            "15m",
            "ticket",
            "model {{ $labels.trial }}, on trial beside {{ $labels.model }}, fails",
            "{{ $value | humanize }} queries in a quarter of an hour; the model in service answered them.",
        ),
        _state(
            "LearningStalls",
            f"{OWN}learn_pass_age_seconds > 6 * 3600",
            "10m",
            "ticket",
            "{{ $labels.job }} makes no pass to its end",
            "The last one ended {{ $value | humanizeDuration }} ago; what is served stays, and is not watched.",
        ),
    ]


def _state(name: str, expr: str, hold: str, severity: str, summary: str, description: str) -> dict[str, Any]:
    alert = f"PredictiveScheduling{name}"
    return {
        "alert": alert,
        "expr": expr,
        "for": hold,
        "labels": {"severity": severity},
        "annotations": {
            "summary": summary,
            "description": description,
            "runbook_url": f"{RUNBOOKS}#{alert.lower()}",
        },
    }
