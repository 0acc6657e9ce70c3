"""The Grafana dashboard, built by Grafana's own SDK; every query is run on a real Prometheus by the tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from grafana_foundation_sdk.builders import bargauge, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import StackingMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

from tools.observability.slos import OWN, SLOS, ratio_name

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_BY = 'job=~"$job"'
_RATE = "[$__rate_interval]"

Query = tuple[str, str]


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    built = (
        Dashboard("Predictive scheduling")
        .uid("predictive-scheduling")
        .description("One token budget over many reasoning requests: latency added, tokens saved, coverage, SLOs")
        .tags(["llm", "predictive-scheduling"])
        .time("now-1h", "now")
        .refresh("10s")
        .tooltip(1)  # type: ignore[arg-type]  # a crosshair over all panels
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            QueryVariable("job")
            .label("Job")
            .datasource(_SOURCE)
            .query(f"label_values({OWN}in_flight, job)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
        )
    )
    for title, panels in _rows():
        built = built.with_row(Row(title))
        for panel in panels:
            built = built.with_panel(panel)
    encoded = json.loads(JSONEncoder(sort_keys=True, indent=1).encode(built.build()))
    if not isinstance(encoded, dict):
        raise TypeError("a dashboard is an object")
    return encoded


def _rows() -> list[tuple[str, list[Any]]]:
    return [
        ("Is it worth it?", _worth()),
        ("Service level objectives", _objectives()),
        ("Latency", _latency()),
        ("Budget", _budget()),
        ("Latency objectives", _held()),
        ("Predictions", _predictions()),
        ("Load and backend", _load()),
        ("Predictor", _predictor()),
        ("Learning", _learning()),
    ]


def _rate(metric: str, by: str = "", more: str = "") -> str:
    labels = f"{{{_BY}{more}}}"
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{labels}{_RATE}))"


def _quantile(share: float, metric: str, by: str = "", more: str = "") -> str:
    inner = _rate(f"{metric}_bucket", f"le{f', {by}' if by else ''}", more)
    return f"histogram_quantile({share}, {inner})"


def _worth() -> list[Any]:
    predicted = _rate(f"{OWN}predictions_total", more=',outcome="fresh"')
    finished = _rate(f"{OWN}requests_total", more=',result=~"natural|forced"')
    gain = f"({_rate(f'{OWN}expected_correct_total')} - {_rate(f'{OWN}baseline_expected_correct_total')}) / {predicted}"
    saved = _rate(f"{OWN}saved_at_equal_accuracy_total")
    held = ',against="equal_accuracy"'
    negative = f'{held},sign="negative"'
    return [
        _stat(
            "Expected accuracy over uniform", "percentunit", gain, "Accuracy gained at the same budget, as predicted"
        ),
        _stat(
            "Tokens saved a request, at equal accuracy",
            "short",
            f"{saved} / {finished}",
            "What uniform would need for the same expected accuracy, less what was given",
        ),
        _stat(
            "Tokens saved a request, against the cap",
            "short",
            f"{_rate(f'{OWN}saved_vs_cap_total')} / {finished}",
            "What the caller might have used, less what it used",
        ),
        _stat(
            "Requests with negative net benefit",
            "percentunit",
            f"{_rate(f'{OWN}net_benefit_requests_total', more=negative)} / "
            f"{_rate(f'{OWN}net_benefit_requests_total', more=held)}",
            "Scheduling cost these more time than their saved tokens bring",
        ),
        _lines(
            "Time saved and time added, a request",
            "s",
            [
                (
                    f"{_rate(f'{OWN}time_saved_seconds_total', 'against')} / on () group_left {finished}",
                    "saved, against {{against}}",
                ),
                (f"{_rate(f'{OWN}time_added_seconds_total')} / {finished}", "added"),
            ],
            "Saved: fewer tokens at the backend's time per token. Added: prediction, allocation and window wait",
        ),
        _lines(
            "Prediction latency beside tokens saved",
            "s",
            [
                (_quantile(0.5, f"{OWN}prediction_duration_seconds"), "prediction p50"),
                (
                    f"{saved} / {finished} * avg({OWN}token_duration_seconds{{{_BY}}})",
                    "time of the tokens saved at equal accuracy",
                ),
            ],
            "Worth it while the lower line is the prediction",
        ),
    ]


def _objectives() -> list[Any]:
    left = [(f"slo:{OWN}{slo.name}:error_budget_remaining", f"{slo.title} ({slo.objective:.1%})") for slo in SLOS]
    burning = [(f"{ratio_name(slo, '5m')} / {round(1 - slo.objective, 6):g}", slo.title) for slo in SLOS]
    return [
        _bars("Error budget left (3 days)", "percentunit", left, "Below zero the objective was missed"),
        _lines(
            "Burn rate (5 minutes)", "short", burning, "1 uses the error budget up exactly; alerts page at 14.4 and 6"
        ),
    ]


def _latency() -> list[Any]:
    stages = ("prediction_duration", "allocation_duration", "window_wait", "added_latency")
    return [
        _lines(
            "Stages, p99",
            "s",
            [(_quantile(0.99, f"{OWN}{stage}_seconds"), stage.replace("_", " ")) for stage in stages],
            "What scheduling adds to a request, stage by stage",
        ),
        _lines(
            "Time to first token",
            "s",
            [
                (_quantile(share, f"{OWN}time_to_first_token_seconds"), f"p{share * 100:g}")
                for share in (0.5, 0.9, 0.99)
            ],
            "From admission, the backend's own part included",
        ),
        _lines(
            "Calls, p99 by method",
            "s",
            [(_quantile(0.99, "rpc_server_call_duration_seconds", "rpc_method"), "{{rpc_method}}")],
            "As the services saw them; Generate and Complete last as long as their text",
        ),
        _lines(
            "Generations",
            "s",
            [
                (_quantile(share, "gen_ai_client_operation_duration_seconds"), f"p{share * 100:g}")
                for share in (0.5, 0.99)
            ],
            "From admission to the last token",
        ),
    ]


def _budget() -> list[Any]:
    return [
        _lines(
            "Reserved, uniform's budget, used",
            "short",
            [
                (f"{_rate(f'{OWN}budget_given_total')} / {_rate(f'{OWN}predictions_total')}", "reserved"),
                (f"{_rate(f'{OWN}budget_baseline_total')} / {_rate(f'{OWN}predictions_total')}", "uniform"),
                (f"{_rate(f'{OWN}used_sum')} / {_rate(f'{OWN}used_count')}", "used"),
            ],
            "Reasoning tokens a request",
        ),
        _lines(
            "Bank",
            "short",
            [(f"{OWN}bank{{{_BY}}}", "{{instance}}"), (f"{OWN}bank_limit{{{_BY}}}", "limit")],
            "Unspent tokens that later requests may use; below zero the price has overdrawn it",
        ),
        _lines(
            "Price",
            "short",
            [(f"{OWN}price_ratio{{{_BY}}}", "{{instance}}")],
            "Expected accuracy per token below which nothing is bought",
        ),
        _lines(
            "What limited budgets",
            "reqps",
            [(_rate(f"{OWN}budget_limits_total", "limited_by"), "{{limited_by}}")],
            "Requests a second by what kept their budget from being larger",
            stacked=True,
        ),
        _lines(
            "Reserved now",
            "short",
            [(f"{OWN}reserved{{{_BY}}}", "{{instance}}")],
            "Tokens that running requests may still use",
        ),
        _lines(
            "Tokens a second",
            "short",
            [(_rate(f"{OWN}tokens_total", "kind"), "{{kind}}")],
            "Prompt, reasoning and answer tokens",
            stacked=True,
        ),
    ]


def _held() -> list[Any]:
    return [
        _lines(
            "Promised and measured",
            "s",
            [
                (f"{OWN}objective_seconds{{{_BY}}}", "{{objective}}"),
                (f"{OWN}objective_measured_seconds{{{_BY}}}", "{{objective}}, measured {{instance}}"),
            ],
            "The promised quantile, and that of the last requests",
        ),
        _lines(
            "Mean budget",
            "short",
            [(f"{OWN}mean_budget{{{_BY}}}", "{{instance}}")],
            "Reasoning tokens a request that the load allows now",
        ),
        _lines(
            "Load",
            "percentunit",
            [(f"{OWN}load_ratio{{{_BY}}}", "{{instance}}")],
            "What the largest mean budget would take of the fleet; above 100 % budgets are smaller",
        ),
        _lines(
            "Refused for the objectives",
            "percentunit",
            [(f"{OWN}refused_share_ratio{{{_BY}}}", "{{instance}}")],
            "Share of the requests that must be refused, as not even the least budgets fit",
        ),
    ]


def _predictions() -> list[Any]:
    predictions = f"{OWN}predictions_total"
    return [
        _lines(
            "Coverage by reason",
            "percentunit",
            [
                (
                    f"{_rate(predictions, 'outcome')} / on () group_left {_rate(predictions)}",
                    "{{outcome}}",
                )
            ],
            "Where curves came from; anything but fresh gives the uniform budget",
            stacked=True,
        ),
        _lines(
            "Calibration error",
            "percentunit",
            [(f"{OWN}calibration_error_ratio{{{_BY}}}", "{{predictor}}")],
            "Expected accuracy less reported score, of the last outcomes",
        ),
        _lines(
            "Reliability",
            "percentunit",
            [(f"{OWN}reliability_ratio{{{_BY}}}", "{{predictor}}")],
            "Share of predicted differences that is real; curves are shrunk by it",
        ),
        _lines(
            "Outcomes reported",
            "reqps",
            [(_rate(f"{OWN}outcomes_total", "predictor"), "{{predictor}}")],
            "Without them nothing above is known",
        ),
    ]


def _load() -> list[Any]:
    return [
        _lines(
            "Requests",
            "reqps",
            [(_rate(f"{OWN}requests_total", "result"), "{{result}}")],
            "By how they ended",
            stacked=True,
        ),
        _lines(
            "Refused",
            "reqps",
            [(_rate(f"{OWN}requests_rejected_total", "reason"), "{{reason}}")],
            "Not admitted, by why",
        ),
        _lines(
            "In flight",
            "short",
            [(f"{OWN}in_flight{{{_BY}}}", "{{instance}}"), (f"{OWN}in_flight_limit{{{_BY}}}", "limit")],
            "Requests that wait or run",
        ),
        _lines(
            "Backend: time per token",
            "s",
            [(f"{OWN}token_duration_seconds{{{_BY}}}", "{{instance}}")],
            "Learned from what it generated",
        ),
        _lines(
            "Backend: calls by endpoint",
            "short",
            [(f"{OWN}endpoint_outstanding{{{_BY}}}", "{{instance}} {{endpoint}}")],
            "The least busy endpoint is asked first",
        ),
        _lines(
            "Backend: failures in a row",
            "short",
            [(f"{OWN}endpoint_failures{{{_BY}}}", "{{instance}} {{endpoint}}")],
            "An endpoint that fails rests",
        ),
        _lines(
            "Tenants",
            "reqps",
            [(_rate(f"{OWN}requests_total", "tenant"), "{{tenant}}")],
            "Requests by tenant; those beyond the limit share one name",
        ),
        _lines(
            "At a gateway",
            "reqps",
            [(_rate(f"{OWN}gateway_requests_total", "outcome"), "{{outcome}}")],
            "Requests that an external processor asked about: decided, refused, or passed as they were and why",
            stacked=True,
        ),
        _lines(
            "Told at a gateway",
            "reqps",
            [(_rate(f"{OWN}gateway_told_total", "outcome"), "{{outcome}}")],
            "What access logs told of requests: settled, forwarded to who decided, or why it settles nothing",
            stacked=True,
        ),
        _lines(
            "Window size",
            "short",
            [(_quantile(share, f"{OWN}window_size"), f"p{share * 100:g}") for share in (0.5, 0.99)],
            "Requests allocated together; 1 by the price",
        ),
    ]


def _predictor() -> list[Any]:
    own = f"{OWN}predictor_"

    def rate(metric: str, by: str) -> str:  # the predictor is another job than $job
        return f"sum by ({by}) (rate({own}{metric}{_RATE}))"

    def p99(metric: str) -> str:
        return f"histogram_quantile(0.99, {rate(f'{metric}_bucket', 'le, model')})"

    return [
        _lines(
            "Queries",
            "reqps",
            [(rate("queries_total", "model, version"), "{{model}} {{version}}")],
            "Queries predicted, by model",
        ),
        _lines(
            "Where predictions spend their time, p99",
            "s",
            [(p99(f"{stage}_duration_seconds"), stage + " {{model}}") for stage in ("queue", "tokenize", "inference")],
            "A long queue wants replicas or larger batches",
        ),
        _lines(
            "Batch size",
            "short",
            [(f"{rate('batch_size_sum', 'model')} / {rate('batch_size_count', 'model')}", "{{model}}")],
            "Mean of calls",
        ),
        _lines("Queue", "short", [(f"{own}queue_depth", "{{instance}} {{model}}")], "Queries that wait now"),
        _lines(
            "Trials: difference of curves",
            "percentunit",
            [(f"{own}trial_difference_ratio", "{{trial}} beside {{model}}")],
            "Mean absolute difference of a shadow's curves to those returned",
        ),
        _lines(
            "Trials: queries",
            "short",
            [(f"{own}trial_queries", "{{trial}}, {{kind}}"), (f"{own}trial_failures", "{{trial}} failed")],
            "What models on trial predicted, and could not",
        ),
    ]


def _learning() -> list[Any]:
    own = f"{OWN}learn_"

    def in_a_day(metric: str, by: str) -> str:  # the loop is another job than $job, and does little in a minute
        return f"sum by ({by}) (increase({own}{metric}[1d]))"

    return [
        _lines(
            "Questions in a day",
            "short",
            [
                (in_a_day("samples_total", "job"), "taken"),
                (in_a_day("questions_total", "outcome"), "{{outcome}}"),
            ],
            "Samples taken, and what became of measuring them",
        ),
        _lines(
            "Tokens spent on learning in a day",
            "short",
            [(in_a_day("tokens_total", "job"), "{{job}}")],
            "Generated in slots that nobody used",
        ),
        _lines(
            "Decisions in a day",
            "short",
            [(in_a_day("decisions_total", "decision"), "{{decision}}")],
            "Why each was taken is in the model's card",
        ),
        _lines("Versions", "short", [(f"{own}version", "{{slot}}")], "What each slot holds; 0 is none"),
        _lines(
            "Gain at the latest look",
            "percentunit",
            [(f"{own}gain_ratio", "{{slot}}"), (f"{own}gain_low_ratio", "{{slot}}, lower bound")],
            "Of the candidate over the default, and of the default over uniform budgets",
        ),
        _lines(
            "Since the last whole pass",
            "s",
            [(f"{own}pass_age_seconds", "{{instance}}")],
            "Long: the LLM server is never idle, or something that it needs is away",
        ),
    ]


def _targets(panel: Any, queries: Sequence[Query]) -> Any:
    for at, (expr, legend) in enumerate(queries):
        query = (
            prometheus.Dataquery()
            .expr(expr)
            .legend_format(legend)
            .ref_id(chr(ord("A") + at))
            .exemplar("_bucket" in expr)
        )
        panel = panel.with_target(query.datasource(_SOURCE))
    return panel.datasource(_SOURCE)


def _stat(title: str, unit: str, expr: str, description: str) -> Any:
    panel = stat.Panel().title(title).unit(unit).description(description).span(6).height(4)
    return _targets(panel, [(expr, "")])


def _bars(title: str, unit: str, queries: Sequence[Query], description: str) -> Any:
    panel = bargauge.Panel().title(title).unit(unit).description(description).min(0).max(1).span(12).height(8)
    return _targets(panel, queries)


def _lines(title: str, unit: str, queries: Sequence[Query], description: str, *, stacked: bool = False) -> Any:
    panel = timeseries.Panel().title(title).unit(unit).description(description).span(12).height(8).line_width(2)
    if stacked:
        from grafana_foundation_sdk.builders.common import StackingConfig

        panel = panel.fill_opacity(40).stacking(StackingConfig().mode(StackingMode.NORMAL))
    return _targets(panel, queries)
