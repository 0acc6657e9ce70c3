"""What the demo found, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling_cli.demo.runner import Result

# How a reader sees the policies, in the terminal and in the report.
POLICY_LABELS = {
    "uniform": "uniform",
    "uniform_at_equal_use": "uniform, equal use",
    "envelope": "scheduled",
    "hidden": "by hidden states",
}


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: ``share`` from 0 to 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def of_policy(results: Sequence[Result]) -> dict[str, float]:
    """One policy's figures: accuracy as a fraction, tokens over all questions, latencies in milliseconds.

    ``budget_tokens``: what the questions might have used; ``reserved_tokens``: what was expected of them.
    """
    seconds = [result.seconds for result in results]
    return {
        "accuracy": fmean(result.right for result in results),
        "budget_tokens": sum(result.allocation.reasoning_budget_tokens for result in results),
        "reserved_tokens": round(sum(result.allocation.expected_tokens for result in results)),
        "reasoning_tokens": sum(result.usage.reasoning_tokens for result in results),
        "answer_tokens": sum(result.usage.answer_tokens for result in results),
        "p50_ms": round(1000 * median(seconds), 1),
        "p99_ms": round(1000 * percentile(seconds, 0.99), 1),
    }


def overhead_seconds(result: Result) -> float:
    """What scheduling added to a question: window wait, prediction and allocation."""
    given = result.allocation
    return given.added_seconds


def summarise(results: Mapping[str, Sequence[Result]], tokens_per_query: int) -> dict[str, Any]:
    """All policies side by side, and what scheduling (``envelope``) saved, cost and covered."""
    envelope = results["envelope"]
    fresh = [r for r in envelope if r.allocation.prediction_outcome == pb.PREDICTION_OUTCOME_FRESH]
    return {
        "queries": len(envelope),
        "tokens_per_query": tokens_per_query,
        "policies": {policy: of_policy(own) for policy, own in results.items()},
        "tokens_saved_vs_cap": sum(result.usage.tokens_saved_vs_cap for result in envelope),
        "tokens_saved_at_equal_accuracy": round(sum(r.usage.tokens_saved_at_equal_accuracy for r in envelope), 1),
        "prediction_ms_p50": round(1000 * median(result.allocation.prediction_seconds for result in envelope), 3),
        "coverage": len(fresh) / len(envelope),
    }


def by_family(uniform: Sequence[Result], envelope: Sequence[Result]) -> list[dict[str, Any]]:
    """Per kind of task: mean budget and accuracy under both policies."""
    rows = []
    for family in dict.fromkeys(result.task.family for result in envelope):
        pair = [[r for r in results if r.task.family == family] for results in (uniform, envelope)]
        rows.append(
            {
                "family": family,
                "questions": len(pair[1]),
                "uniform_accuracy": fmean(r.right for r in pair[0]),
                "envelope_accuracy": fmean(r.right for r in pair[1]),
                "uniform_budget": fmean(r.allocation.reasoning_budget_tokens for r in pair[0]),
                "envelope_budget": fmean(r.allocation.reasoning_budget_tokens for r in pair[1]),
            }
        )
    return rows
