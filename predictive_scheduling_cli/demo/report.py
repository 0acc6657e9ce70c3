"""The demo's report: one HTML file with its plots inside, readable without a network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from exporters.replay.html_page import BLUE, GREY, RED, figure, page, table
from predictive_scheduling_cli.demo.runner import Result
from predictive_scheduling_cli.demo.summary import POLICY_LABELS, by_family, overhead_seconds


def write_report(path: Path, runs: Sequence[tuple[dict[str, Any], Sequence[Result], Sequence[Result]]]) -> None:
    """Write the report of runs (summary, uniform's results, envelope's results); the first run is the tight budget."""
    summary, uniform, envelope = runs[0]
    parts = ["<h1>One token budget, split where it buys the most</h1>", _headline(summary), _totals(runs)]
    parts += [
        "<h2>Who got the tokens</h2>",
        figure(_families(uniform, envelope), "Mean budget and accuracy by kind of task."),
    ]
    parts.append(_family_table(uniform, envelope))
    parts += [
        "<h2>Budgets and latency</h2>",
        figure(
            _budgets(uniform, envelope),
            "Each question's reserved budget and what it used, questions in order of budget.",
        ),
        figure(_latencies(uniform, envelope), "Share of questions answered within a time, all sent at once."),
        "<h2>Prediction against savings</h2>",
        figure(
            _savings(envelope),
            "Each question: what scheduling it took against what fewer tokens than its cap saved, in milliseconds.",
        ),
        "<h2>Every question</h2>",
        _questions(uniform, envelope),
    ]
    path.write_text(page("Predictive scheduling: demo report", parts))


def _headline(summary: dict[str, Any]) -> str:
    policies = summary["policies"]
    same = policies["uniform_at_equal_use"]["accuracy"]
    gain = 100 * (policies["envelope"]["accuracy"] - same)
    return (
        f"<p class=big>{summary['queries']} questions at {summary['tokens_per_query']} reasoning tokens a question: "
        f"<b>{policies['uniform']['accuracy']:.1%}</b> right with uniform budgets, "
        f"<b>{same:.1%}</b> with uniform budgets that use as much, "
        f"<b>{policies['envelope']['accuracy']:.1%}</b> scheduled (<b>{gain:+.1f} points</b> at equal used tokens).</p>"
        "<p class=note>The model is SmolLM2-135M-Instruct with an adapter that was tuned on the demo's kinds of task, "
        "though on none of these questions.</p>"
    )


def _totals(runs: Sequence[tuple[dict[str, Any], Sequence[Result], Sequence[Result]]]) -> str:
    head = ["budget", "policy", "accuracy", "budgets", "reserved", "reasoning used", "answer", "p50 ms", "p99 ms"]
    rows = [
        [
            f"{summary['tokens_per_query']} a question",
            POLICY_LABELS[name],
            f"{figures['accuracy']:.1%}",
            *(
                f"{figures[key]:,.0f}"
                for key in ("budget_tokens", "reserved_tokens", "reasoning_tokens", "answer_tokens", "p50_ms", "p99_ms")
            ),
        ]
        for summary, _, _ in runs
        for name, figures in summary["policies"].items()
    ]
    return table(head, rows)


def _family_table(uniform: Sequence[Result], envelope: Sequence[Result]) -> str:
    head = ["kind", "questions", "uniform budget", "scheduled budget", "uniform right", "scheduled right"]
    rows = [
        [
            row["family"],
            str(row["questions"]),
            f"{row['uniform_budget']:.0f}",
            f"{row['envelope_budget']:.0f}",
            f"{row['uniform_accuracy']:.0%}",
            f"{row['envelope_accuracy']:.0%}",
        ]
        for row in by_family(uniform, envelope)
    ]
    return table(head, rows)


def _questions(uniform: Sequence[Result], envelope: Sequence[Result]) -> str:
    head = ["question", "uniform", "scheduled", "used", "expected", "answer"]
    rows = []
    for before, after in zip(uniform, envelope, strict=True):
        marks = [
            f"<span class={'right' if r.right else 'wrong'}>{r.usage.reserved_tokens} {'✓' if r.right else '✗'}</span>"
            for r in (before, after)
        ]
        rows.append(
            [
                html.escape(after.task.question),
                *marks,
                str(after.usage.reasoning_tokens),
                f"{after.allocation.expected_accuracy:.0%}",
                html.escape(after.answer[:20]),
            ]
        )
    return table(head, rows)


def _families(uniform: Sequence[Result], envelope: Sequence[Result]) -> Figure:
    rows = by_family(uniform, envelope)
    drawing = Figure(figsize=(9, 3.2))
    axes = drawing.subplots(1, 2)
    places = range(len(rows))
    for axis, key, label, scale in ((axes[0], "budget", "tokens", 1), (axes[1], "accuracy", "% right", 100)):
        axis.bar(
            [p - 0.2 for p in places], [scale * r[f"uniform_{key}"] for r in rows], 0.4, color=GREY, label="uniform"
        )
        axis.bar(
            [p + 0.2 for p in places], [scale * r[f"envelope_{key}"] for r in rows], 0.4, color=BLUE, label="scheduled"
        )
        axis.set_xticks(list(places), [r["family"] for r in rows], rotation=40, ha="right")
        axis.set_ylabel(label)
    axes[0].legend(frameon=False)
    return drawing


def _budgets(uniform: Sequence[Result], envelope: Sequence[Result]) -> Figure:
    drawing = Figure(figsize=(9, 2.8))
    axis = drawing.subplots()
    ordered = sorted(envelope, key=lambda result: result.usage.reserved_tokens)
    axis.step(
        range(len(ordered)),
        [r.usage.reserved_tokens for r in ordered],
        where="mid",
        color=BLUE,
        label="scheduled: reserved",
    )
    axis.scatter(
        range(len(ordered)),
        [r.usage.reasoning_tokens for r in ordered],
        s=12,
        color=RED,
        label="scheduled: used",
        zorder=3,
    )
    axis.plot(range(len(uniform)), [r.usage.reserved_tokens for r in uniform], color=GREY, label="uniform: reserved")
    axis.set_xlabel("questions")
    axis.set_ylabel("reasoning tokens")
    axis.legend(frameon=False)
    return drawing


def _latencies(uniform: Sequence[Result], envelope: Sequence[Result]) -> Figure:
    drawing = Figure(figsize=(9, 2.6))
    axis = drawing.subplots()
    for results, colour, label in ((uniform, GREY, "uniform"), (envelope, BLUE, "scheduled")):
        seconds = sorted(result.seconds for result in results)
        axis.step(seconds, [100 * (at + 1) / len(seconds) for at in range(len(seconds))], color=colour, label=label)
    axis.set_xlabel("seconds")
    axis.set_ylabel("% of questions")
    axis.legend(frameon=False)
    return drawing


def _savings(envelope: Sequence[Result]) -> Figure:
    drawing = Figure(figsize=(9, 2.8))
    axis = drawing.subplots()
    cost = [1000 * overhead_seconds(result) for result in envelope]
    saved = [1000 * (result.usage.net_benefit_seconds + overhead_seconds(result)) for result in envelope]
    prediction = [1000 * result.allocation.prediction_seconds for result in envelope]
    axis.scatter(cost, saved, s=14, color=BLUE, label="prediction, allocation and window wait")
    axis.scatter(prediction, saved, s=14, color=RED, label="prediction alone")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("cost of scheduling, ms")
    axis.set_ylabel("time saved, ms")
    axis.legend(frameon=False)
    return drawing
