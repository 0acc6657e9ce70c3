"""Commands that score a predictor: ``evaluate`` it, and draw the ``report`` of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exporters.cli.options import CurvesOption, HiddenOption, failed
from exporters.faults import CurvesFileError

if TYPE_CHECKING:
    from exporters.evaluate import Evaluation


def evaluate(
    curves: CurvesOption,
    model: Annotated[Path, typer.Option(help="The model folder.")],
    json_out: Annotated[Path, typer.Option("--json", help="Where the figures go.")],
    hidden_states: HiddenOption = None,
    report: Annotated[Path | None, typer.Option(help="Where an HTML report with plots goes.")] = None,
) -> None:
    """Score a predictor: allocate by its curves, at every mean budget, and compare with uniform and both oracles."""
    from exporters.curves import read_curves
    from exporters.evaluate import evaluate_folder
    from exporters.hidden_states import read_hidden_states

    try:
        measured = read_curves(curves)
        states = read_hidden_states(hidden_states, measured.ids) if hidden_states else None
        evaluation = evaluate_folder(model, measured, states)
    except (CurvesFileError, ValueError) as error:
        raise failed(error) from None
    json_out.parent.mkdir(parents=True, exist_ok=True)
    json_out.write_text(json.dumps(evaluation.as_json(), indent=1) + "\n")
    if report is not None:
        _write_report(report, evaluation)
    right = evaluation.difficulty_accuracy
    classes = "" if right is None else f", difficulty right {right:.1%}"
    typer.echo(f"{evaluation.queries} questions, Pearson r = {evaluation.pearson:.3f}{classes}")
    for at in evaluation.budgets:
        gains = "  ".join(f"{name} {100 * scored.gain:+5.1f}" for name, scored in at.policies.items())
        typer.echo(f"{at.tokens_per_query:4} tokens: uniform {at.uniform:5.1%}  {gains}")


def report(
    evaluation: Annotated[Path, typer.Argument(help="What evaluate wrote with --json.")],
    out: Annotated[Path, typer.Option(help="The HTML report to write.")],
) -> None:
    """Draw the report of an evaluation: accuracy and gain against budget, the oracle's gap, reliability."""
    from exporters.evaluate import Evaluation

    try:
        found = Evaluation.from_json(json.loads(evaluation.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise failed(ValueError(f"{evaluation}: not an evaluation: {error!r}")) from None
    _write_report(out, found)
    typer.echo(f"report in {out}")


def _write_report(out: Path, evaluation: Evaluation) -> None:
    from exporters.report import write_report  # matplotlib is needed by reports only

    out.parent.mkdir(parents=True, exist_ok=True)
    write_report(out, evaluation)
