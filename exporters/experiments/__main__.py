"""``python -m exporters.experiments NAME …`` prints an experiment's table as Markdown, for ``docs/experiments.md``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.parquet as pq
import typer
from numpy.typing import NDArray

from exporters.checkers import canonical, checker
from exporters.curves import Curves, read_curves
from exporters.evaluate import predictions
from exporters.experiments.classes import buckets
from exporters.experiments.robustness import noise, starvation
from exporters.experiments.table import Floats
from exporters.experiments.traces import traces_figure, traces_table, vote_curves
from exporters.experiments.training import generalisation, layer_sweep, other_model, training_size
from exporters.hidden_states import read_hidden_states
from exporters.questions import read_questions
from predictor_service.model import LoadedModel

app = typer.Typer(help=__doc__, no_args_is_help=True)
FileOption = Annotated[Path, typer.Option("--curves")]
ModelOption = Annotated[Path, typer.Option("--model")]
StatesOption = Annotated[Path | None, typer.Option("--hidden-states")]


def _predicted(curves: Curves, model: Path, hidden: Path | None) -> Floats:
    states = read_hidden_states(hidden, curves.ids) if hidden else None
    return predictions(LoadedModel(model), curves, states)[0]


@app.command("noise")
def noise_command(curves: FileOption, model: ModelOption, hidden_states: StatesOption = None) -> None:
    """Noise injected into predictions."""
    measured = read_curves(curves)
    typer.echo(noise(_predicted(measured, model, hidden_states), measured.accuracy).markdown())


@app.command("starvation")
def starvation_command(curves: FileOption, model: ModelOption, hidden_states: StatesOption = None) -> None:
    """Starvation under misclassification, with and without a higher floor."""
    measured = read_curves(curves)
    typer.echo(starvation(_predicted(measured, model, hidden_states), measured.accuracy).markdown())


@app.command("buckets")
def buckets_command(
    curves: FileOption,
    training: Annotated[Path, typer.Option("--training")],
    column: Annotated[list[str], typer.Option("--column", help="A column of difficulty classes in the curves file.")],
    train_column: Annotated[str, typer.Option(help="The column of true classes in the training file.")] = "difficulty",
    model: Annotated[list[Path] | None, typer.Option("--model", help="A classifying model folder.")] = None,
    hidden_states: StatesOption = None,
) -> None:
    """Curves per difficulty class beside the size baseline, at every budget."""
    measured = read_curves(curves)
    found = {name: _column(curves, name) for name in column}
    predicted = {folder.name: _predicted(measured, folder, hidden_states) for folder in model or []}
    table = buckets(measured, found, read_curves(training), _column(training, train_column), predicted)
    typer.echo(table.markdown())


def _column(path: Path, name: str) -> NDArray[np.str_]:
    return np.array(pq.read_table(path, columns=[name])[name].to_pylist())


@app.command("training-size")
def training_size_command(
    curves: FileOption,
    hidden_states: Annotated[Path, typer.Option("--hidden-states")],
    training: Annotated[Path, typer.Option("--training")],
    training_states: Annotated[Path, typer.Option("--training-states")],
) -> None:
    """How little training data suffices."""
    test, train = read_curves(curves), read_curves(training)
    states = read_hidden_states(training_states, train.ids), read_hidden_states(hidden_states, test.ids)
    typer.echo(training_size(train, states[0], test, states[1]).markdown())


@app.command("layers")
def layers_command(curves: FileOption, states: Annotated[Path, typer.Option("--states")]) -> None:
    """Which layer predicts best."""
    typer.echo(layer_sweep(read_curves(curves), states).markdown())


@app.command("generalisation")
def generalisation_command(
    curves: FileOption,
    group: Annotated[str, typer.Option(help="The column of the kind of task.")] = "group",
    hidden_states: StatesOption = None,
) -> None:
    """Kinds of task that the predictor was not trained on."""
    measured = read_curves(curves)
    states = read_hidden_states(hidden_states, measured.ids) if hidden_states else None
    typer.echo(generalisation(measured, _column(curves, group), states).markdown())


@app.command("other-model")
def other_model_command(
    curves: FileOption,
    model: ModelOption,
    other: Annotated[list[Path], typer.Option("--other", help="Curves of the same questions on another model.")],
    hidden_states: StatesOption = None,
) -> None:
    """A model that the predictor was not trained on."""
    own = read_curves(curves)
    others = {path.stem: read_curves(path) for path in other}
    for path, found in zip(other, others.values(), strict=True):
        if found.ids != own.ids:
            raise typer.BadParameter(f"{path}: its questions are not those of {curves}")
    typer.echo(other_model(_predicted(own, model, hidden_states), own, others).markdown())


@app.command("traces")
def traces_command(
    curves: FileOption,
    questions: Annotated[Path, typer.Option("--questions")],
    check: Annotated[str, typer.Option(help="exact or maths.")] = "exact",
    plot: Annotated[Path | None, typer.Option(help="Where the figure goes, an .svg.")] = None,
) -> None:
    """Self-consistency: several traces beside longer reasoning."""
    asked = {question.question_id: question.expected for question in read_questions(questions)}
    rows = pq.read_table(curves, columns=["question_id", "answers"]).to_pylist()
    found = vote_curves(
        [row["answers"] for row in rows], [asked[row["question_id"]] for row in rows], checker(check), canonical(check)
    )
    typer.echo(traces_table(found).markdown())
    if plot is not None:
        traces_figure(found).savefig(plot, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    app()
