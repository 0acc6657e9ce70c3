"""The evaluation as a page: what scheduling gains at each budget, and how far its predictions can be trusted."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from exporters.replay.evaluate import Evaluation
from exporters.replay.html_page import BLUE, GREEN, GREY, RED, figure, page, table

_COLOURS = {"greedy": RED, "envelope": BLUE, "price": GREEN}


def write_report(path: Path, evaluation: Evaluation) -> None:
    """Write the report of an evaluation."""
    model = evaluation.model
    best = max(evaluation.budgets, key=lambda at: at.policies["envelope"].gain)
    headline = (
        f"<p class=big>{evaluation.queries} questions, Pearson r = {evaluation.pearson:.3f}; at most "
        f"<b>{100 * best.policies['envelope'].gain:+.1f} points</b> over uniform, at {best.tokens_per_query} tokens a "
        "question.</p>"
    )
    split = _split_oracle(evaluation)
    shares = [] if split is None else [
        figure(_shares(evaluation, split), "Share of the split-half oracle's gain that the policy reaches.")
    ]  # fmt: skip
    parts = [
        f"<h1>{model['name']} {model['version']}</h1>",
        headline,
        figure(_accuracy(evaluation), "Accuracy against the mean budget, with both oracles."),
        figure(_gains(evaluation), "Gain over uniform at equal tokens; bands: 95 % bootstrap over questions."),
        *shares,
        figure(_reliability(evaluation), "Reliability: measured accuracy where so much was predicted."),
        _numbers(evaluation),
    ]
    path.write_text(page(f"Evaluation of {model['name']}", parts))


def _numbers(evaluation: Evaluation) -> str:
    names = list(evaluation.budgets[0].policies)
    head = ["tokens a question", "uniform", "oracle", "split oracle", *names, *[f"{name} tokens" for name in names]]
    rows = [
        [
            str(at.tokens_per_query),
            f"{at.uniform:.1%}",
            f"{100 * (at.oracle - at.uniform):+.1f}",
            "" if at.oracle_split is None else f"{100 * (at.oracle_split - at.uniform):+.1f}",
            *(f"{100 * at.policies[name].gain:+.1f}" for name in names),
            *(f"{at.policies[name].tokens_per_query:.1f}" for name in names),
        ]
        for at in evaluation.budgets
    ]
    return table(head, rows)


def _split_oracle(evaluation: Evaluation) -> list[float] | None:
    """What the oracle reaches that is scored on other samples than it plans on; ``None`` where there are none."""
    found = [at.oracle_split for at in evaluation.budgets if at.oracle_split is not None]
    return found if len(found) == len(evaluation.budgets) else None


def _tokens(evaluation: Evaluation) -> list[int]:
    return [at.tokens_per_query for at in evaluation.budgets]


def _accuracy(evaluation: Evaluation) -> Figure:
    """Accuracy against the mean budget: all policies, uniform, and both oracles."""
    drawing = Figure(figsize=(9, 3.6))
    axis = drawing.subplots()
    tokens = _tokens(evaluation)
    axis.plot(tokens, [100 * at.oracle for at in evaluation.budgets], ":", color="black", label="oracle")
    if (split := _split_oracle(evaluation)) is not None:
        axis.plot(tokens, [100 * share for share in split], "--", color="black", label="split oracle")
    for name in _COLOURS:
        accuracy = [100 * at.policies[name].accuracy for at in evaluation.budgets]
        axis.plot(tokens, accuracy, color=_COLOURS[name], label=name)
    axis.plot(tokens, [100 * at.uniform for at in evaluation.budgets], color=GREY, label="uniform")
    axis.set_xlabel("mean reasoning tokens a question")
    axis.set_ylabel("accuracy, %")
    axis.legend(frameon=False)
    return drawing


def overview_figure(evaluation: Evaluation, policy: str = "envelope") -> Figure:
    """Accuracy against the mean budget for a first look: scheduled, uniform, and what knowing the curves would give.

    The arrow stands where the policy gains most. The oracle is the split one, where there is one: planned on half of
    the samples, scored on the other half.
    """
    drawing = Figure(figsize=(8, 3.8))
    axis = drawing.subplots()
    tokens = _tokens(evaluation)
    scheduled = [at.policies[policy].accuracy for at in evaluation.budgets]
    oracle = _split_oracle(evaluation) or [at.oracle for at in evaluation.budgets]
    lines = (
        ("oracle: plans with the measured curves", oracle, ":", "black"),
        ("scheduled: plans with predicted curves", scheduled, "-", BLUE),
        ("uniform: the same limit for every question", [at.uniform for at in evaluation.budgets], "-", GREY),
    )
    for label, accuracy, style, colour in lines:
        axis.plot(tokens, [100 * share for share in accuracy], style, color=colour, linewidth=2, label=label)
    best = max(evaluation.budgets, key=lambda at: at.policies[policy].gain)
    low, high = 100 * best.uniform, 100 * best.policies[policy].accuracy
    at = best.tokens_per_query
    axis.annotate("", (at, high), (at, low), arrowprops={"arrowstyle": "->", "color": BLUE})
    axis.text(at + 3, low - 3, f"{high - low:+.1f} points", color=BLUE, va="center")
    axis.set_xlabel("reasoning tokens a question, mean")
    axis.set_ylabel("questions answered right, %")
    axis.set_xlim(0, max(tokens))
    axis.set_ylim(0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right")
    return drawing


def _gains(evaluation: Evaluation) -> Figure:
    drawing = Figure(figsize=(9, 3.2))
    axis = drawing.subplots()
    tokens = _tokens(evaluation)
    for name, colour in _COLOURS.items():
        scored = [at.policies[name] for at in evaluation.budgets]
        axis.plot(tokens, [100 * one.gain for one in scored], color=colour, label=name)
        low, high = ([100 * one.band[side] for one in scored] for side in (0, 1))
        axis.fill_between(tokens, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.axhline(0, color=GREY, linewidth=1)
    axis.set_xlabel("mean reasoning tokens a question")
    axis.set_ylabel("points over uniform")
    axis.legend(frameon=False)
    return drawing


def _shares(evaluation: Evaluation, split_oracle: list[float]) -> Figure:
    drawing = Figure(figsize=(9, 2.6))
    axis = drawing.subplots()
    reached = [(at, split - at.uniform) for at, split in zip(evaluation.budgets, split_oracle, strict=True)]
    wide = [(at, gain) for at, gain in reached if gain > 0.01]  # else a ratio of two noises
    for name, colour in _COLOURS.items():
        share = [100 * at.policies[name].gain / gain for at, gain in wide]
        axis.plot([at.tokens_per_query for at, _ in wide], share, color=colour, label=name)
    axis.set_xlabel("mean reasoning tokens a question")
    axis.set_ylabel("% of the oracle's gain")
    axis.legend(frameon=False)
    return drawing


def _reliability(evaluation: Evaluation) -> Figure:
    drawing = Figure(figsize=(4.2, 3.8))
    axis = drawing.subplots()
    predicted, measured = zip(*evaluation.reliability, strict=True)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    axis.plot(predicted, measured, "o-", color=BLUE)
    axis.set_xlabel("predicted accuracy")
    axis.set_ylabel("measured accuracy")
    axis.set_aspect("equal")
    return drawing
