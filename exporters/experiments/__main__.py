"""``python -m exporters.experiments NAME …`` prints an experiment's table as Markdown, for ``docs/experiments.md``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.parquet as pq
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray

from exporters.experiments.abstention import UNIFORM, abstention_table, elsewhere, known_table, unseen
from exporters.experiments.classes import buckets
from exporters.experiments.compare import compare
from exporters.experiments.envelope import envelope_figure
from exporters.experiments.learning import Traces, agreement_table, drawn_study, earned_table, learned_figure
from exporters.experiments.learning import study as learned
from exporters.experiments.learning_story import Story, story_figure, story_table, tell
from exporters.experiments.robustness import noise, starvation
from exporters.experiments.samples import Study, equal_traces_table, few_figure, few_table
from exporters.experiments.table import Floats, Table, save
from exporters.experiments.traces import traces_table, vote_curves
from exporters.experiments.training import generalisation, layer_sweep, other_model, training_size
from exporters.measure.checkers import canonical, checker
from exporters.measure.curves import Curves, read_curves
from exporters.measure.hidden_states import read_hidden_states
from exporters.measure.judging import expected_of
from exporters.measure.questions import read_questions
from exporters.predictors.ensemble import Recipe
from exporters.predictors.train import TextRecipe, train
from exporters.replay.evaluate import Evaluation, predictions
from exporters.replay.report import overview_figure
from predictor_service.model import LoadedModel

DEMO_DATA = Path(__file__).parent.parent / "demo" / "data"
DEMO_SAMPLES, DEMO_CURVES = DEMO_DATA / "samples.parquet", DEMO_DATA / "curves.parquet"
DEMO_TEXT = TextRecipe(min_texts=4)
TOKENS = "mean reasoning tokens a question"
app = typer.Typer(help=__doc__, no_args_is_help=True)
FileOption = Annotated[Path, typer.Option("--curves")]
ModelOption = Annotated[Path, typer.Option("--model")]
PlotOption = Annotated[Path | None, typer.Option(help="Where the table goes as a plot, an .svg.")]
StatesOption = Annotated[Path | None, typer.Option("--hidden-states")]


def _demo_recipe(epochs: int, *, by_text: bool = True) -> Recipe:
    """The recipe of the shipped predictors of the demo's questions."""
    return Recipe(
        members=6, hidden=96, epochs=epochs, batch=64, learning_rate=0.002, dropout=0.3, input_dropout=0.2, mixup=0.2,
        scale_power=0.5 if by_text else 1.0,
    )  # fmt: skip


def _predicted(curves: Curves, model: Path, hidden: Path | None) -> Floats:
    states = _states_of(hidden, curves.ids)
    return predictions(LoadedModel(model), curves, states).accuracy


def _show(table: Table, plot: Path | None = None, drawing: Figure | None = None) -> None:
    typer.echo(table.markdown())
    if plot is not None and drawing is not None:
        save(drawing, plot)


@app.command("accuracy")
def accuracy_command(
    evaluation: Path, plot: Annotated[Path, typer.Option(help="Where the plot goes, an .svg.")]
) -> None:
    """Accuracy against tokens, scheduled, uniform and oracle; EVALUATION is what evaluate wrote with --json."""
    save(overview_figure(Evaluation.from_json(json.loads(evaluation.read_text()))), plot)


@app.command("compare")
def compare_command(evaluations: list[Path], plot: PlotOption = None) -> None:
    """Predictors side by side; EVALUATIONS are what evaluate wrote with --json, named by their files."""
    table = compare({path.stem: Evaluation.from_json(json.loads(path.read_text())) for path in evaluations})
    drawn = Table([table.head[0], *table.head[2:]], [[row[0], *row[2:]] for row in table.rows])
    _show(table, plot, drawn.lines(1, TOKENS))


@app.command("noise")
def noise_command(
    curves: FileOption, model: ModelOption, hidden_states: StatesOption = None, plot: PlotOption = None
) -> None:
    """Noise injected into predictions."""
    measured = read_curves(curves)
    table = noise(_predicted(measured, model, hidden_states), measured.accuracy)
    raw = Table([table.head[0], *table.head[3:]], [[row[0], *row[3:]] for row in table.rows if row[1] == "as it is"])
    _show(table, plot, raw.lines(1, TOKENS))


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
    plot: PlotOption = None,
) -> None:
    """Curves per difficulty class beside the size baseline, at every budget."""
    measured = read_curves(curves)
    found = {name: _column(curves, name) for name in column}
    predicted = {folder.name: _predicted(measured, folder, hidden_states) for folder in model or []}
    table = buckets(measured, found, read_curves(training), _column(training, train_column), predicted)
    _show(table, plot, table.lines(1, TOKENS))


def _states_of(path: Path | None, ids: Sequence[str]) -> NDArray[np.float32] | None:
    return read_hidden_states(path, ids) if path else None


def _with_states(curves: Path, states: Path) -> tuple[Curves, NDArray[np.float32]]:
    measured = read_curves(curves)
    return measured, read_hidden_states(states, measured.ids)


def _column(path: Path, name: str) -> NDArray[np.str_]:
    return np.array(pq.read_table(path, columns=[name])[name].to_pylist())


@app.command("training-size")
def training_size_command(
    curves: FileOption,
    hidden_states: Annotated[Path, typer.Option("--hidden-states")],
    training: Annotated[Path, typer.Option("--training")],
    training_states: Annotated[Path, typer.Option("--training-states")],
    plot: PlotOption = None,
) -> None:
    """How little training data suffices."""
    table = training_size(*_with_states(training, training_states), *_with_states(curves, hidden_states))
    _show(table, plot, table.columns("training questions", "points over uniform", first=2))


@app.command("few-samples")
def few_samples_command(
    curves: FileOption,
    hidden_states: Annotated[Path, typer.Option("--hidden-states")],
    test: Annotated[Path, typer.Option("--test")],
    test_states: Annotated[Path, typer.Option("--test-states")],
    samples: Annotated[list[int] | None, typer.Option("--samples", min=1, help="Samples a question.")] = None,
    traces: Annotated[list[int] | None, typer.Option("--traces", min=100, help="Traces of a whole collection.")] = None,
    questions: Annotated[int, typer.Option(min=4, help="Train on as many questions at most.")] = 10**9,
    repeats: Annotated[int, typer.Option(min=1, help="Draws of the samples.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over 3,000 questions or more.")] = 8,
    plot: PlotOption = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Where the first table goes as JSON.")] = None,
) -> None:
    """How few samples a question suffice, for training and for scoring; whether smoothing them helps."""
    (training, states), (scored, scored_states) = _with_states(curves, hidden_states), _with_states(test, test_states)
    part = np.random.default_rng(0).permutation(len(training.ids))[:questions]
    recipe = Recipe(members=2, epochs=epochs)
    study = Study(training.chosen(part), states[part], scored, scored_states, recipe, repeats)
    counts = samples or [1, 2, 4, 8, 16]
    rows = study.few(counts)
    _show(few_table(rows), plot, few_figure(rows))
    for table in (
        equal_traces_table(
            [row for total in traces or [1500, 7450] for row in study.equal_traces(total, [1, 2, 4, 8, 16, 64])]
        ),
        study.scoring(counts),
    ):
        typer.echo("\n" + table.markdown())
    if as_json is not None:
        as_json.write_text(json.dumps([row.as_json() for row in rows], indent=1))


@app.command("learning")
def learning_command(
    samples: Annotated[
        Path, typer.Option(help="Measured traces with answers and what was expected; those of the demo's questions.")
    ] = DEMO_SAMPLES,
    counts: Annotated[list[int] | None, typer.Option("--samples-a-question", min=2)] = None,
    check: Annotated[str, typer.Option(help="How answers are compared: exact or maths.")] = "exact",
    hidden_states: StatesOption = None,
    curves: Annotated[
        Path, typer.Option(help="Curves with a column group: kinds of task, left out in turn.")
    ] = DEMO_CURVES,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the questions of --curves.")] = 200,
    plot: PlotOption = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Where the figures go as JSON.")] = None,
) -> None:
    """What predictors that learn without labels keep of the gain, what poisons and costs, and what was never seen."""
    traces = Traces.read(samples)
    states = _states_of(hidden_states, traces.ids)
    found = learned(traces, checker(check), counts or list(range(2, traces.samples + 1)), states)
    _show(agreement_table(found.agreement), plot, learned_figure(found))
    typer.echo("\n" + earned_table(found.earned).markdown() + "\n")
    without = ", ".join(f"{100 * gain:+.1f} at {budget}" for budget, gain in found.mean_curve.items())
    typer.echo(f"the mean curve for all, without predictions: {without}")
    for name, lost in found.poisoned_lost.items():
        typer.echo(f"a tenth of the questions {name}: {lost:.1%} of the gain lost")
    strange = unseen(read_curves(curves), _column(curves, "group"), _demo_recipe(epochs), DEMO_TEXT)
    typer.echo("\n" + abstention_table(strange).markdown() + "\n\n" + known_table(strange).markdown())
    if as_json is not None:
        as_json.write_text(
            json.dumps(
                {
                    "kept_share": found.kept_share,
                    "unseen_worst_points": strange.worst_points,
                    "known_gain_lost_share": strange.known_gain_lost_share,
                    "poisoned_gain_lost_share": max(found.poisoned_lost.values()),
                    "requests_to_earn_back": min(one.requests for one in found.earned),
                    "mean_curve_gain": found.mean_curve,
                    "agreement": [asdict(row) for row in found.agreement],
                    "earned": [asdict(row) for row in found.earned],
                },
                indent=1,
            )
        )


@app.command("learning-story")
def learning_story_command(
    samples: Annotated[
        Path, typer.Option(help="Measured traces with answers, what was expected, and a column group.")
    ] = DEMO_SAMPLES,
    check: Annotated[str, typer.Option(help="How answers are compared: exact or maths.")] = "exact",
    seeds: Annotated[int, typer.Option(min=1, help="Orders in which the questions come.")] = 12,
    plot: PlotOption = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Where the figures go as JSON.")] = None,
) -> None:
    """The loop from a cold start: first predictor, a bad candidate, kinds that it never saw, and learning them."""
    traces, stories = Traces.read(samples), list[Story]()
    for seed in range(seeds):
        stories.append(tell(traces, checker(check), seed))
    _show(story_table(stories), plot, story_figure(stories))
    fates = [one.bad for one in stories]
    typer.echo("\nshuffled candidates: " + ", ".join(f"{fates.count(fate)} {fate}" for fate in sorted(set(fates))))
    if as_json is not None:
        as_json.write_text(json.dumps([asdict(one) for one in stories], indent=1))


@app.command("drawn-agreement")
def drawn_agreement_command(
    curves: FileOption,
    hidden_states: Annotated[Path, typer.Option("--hidden-states")],
    test: Annotated[Path, typer.Option("--test")],
    test_states: Annotated[Path, typer.Option("--test-states")],
    samples: Annotated[list[int] | None, typer.Option("--samples", min=2)] = None,
    alike: Annotated[list[float] | None, typer.Option("--alike", help="Chances that wrong answers are alike.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 8,
) -> None:
    """Learning without labels where only proportions of right answers are known, so that traces are drawn."""
    (training, states), (scored, scored_states) = _with_states(curves, hidden_states), _with_states(test, test_states)
    recipe = Recipe(members=2, epochs=epochs)
    table = drawn_study(
        training,
        states,
        scored,
        scored_states,
        recipe,
        samples or [2, 4],
        alike or [0.0, 0.2, 0.5],
        (32, 48, 64, 96, 128),
    )
    typer.echo(table.markdown())


@app.command("layers")
def layers_command(
    curves: FileOption, states: Annotated[Path, typer.Option("--states")], plot: PlotOption = None
) -> None:
    """Which layer predicts best."""
    table = layer_sweep(read_curves(curves), states)
    only = Table(table.head[:2], [row[:2] for row in table.rows])
    _show(table, plot, only.columns("layer", "correlation, held out"))


@app.command("generalisation")
def generalisation_command(
    curves: FileOption,
    group: Annotated[str, typer.Option(help="The column of the kind of task.")] = "group",
    hidden_states: StatesOption = None,
) -> None:
    """Kinds of task that the predictor was not trained on."""
    measured = read_curves(curves)
    states = _states_of(hidden_states, measured.ids)
    typer.echo(generalisation(measured, _column(curves, group), states).markdown())


@app.command("abstention")
def abstention_command(
    curves: FileOption,
    group: Annotated[str, typer.Option(help="The column of the kind of task.")] = "group",
    hidden_states: StatesOption = None,
    other: Annotated[Path | None, typer.Option("--other", help="Curves of quite other questions, by the text.")] = None,
    other_training: Annotated[Path | None, typer.Option(help="What predictors of those are trained on.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the questions of --curves.")] = 200,
) -> None:
    """Predictors that abstain on kinds of task that they were not trained on."""
    measured = read_curves(curves)
    states = _states_of(hidden_states, measured.ids)
    recipe = _demo_recipe(epochs, by_text=states is None)
    found = unseen(measured, _column(curves, group), recipe, DEMO_TEXT, states)
    asked = []
    if other is not None and other_training is not None:
        others, wide = read_curves(other), Recipe(input_dropout=0.5, epochs=min(15, epochs), scale_power=0.5)
        own, _ = train("text_curve", replace(measured, used=None), None, _demo_recipe(epochs), DEMO_TEXT)
        foreign, _ = train("text_curve", replace(read_curves(other_training), used=None), None, wide)
        asked = [elsewhere(f"{other.stem}, of {curves.stem}", own, others)]
        asked.append(elsewhere(f"{curves.stem}, of {other_training.stem}", foreign, measured))
    typer.echo(abstention_table(found, asked).markdown() + "\n")
    typer.echo(known_table(found).markdown() + "\n")
    worst = min([found.worst_points, *(one.worst[UNIFORM] for one in asked)])
    typer.echo(
        f"worst on an unseen kind {worst:+.1f} points; known gain lost at most {found.known_gain_lost_share:.1%}; "
        f"false alarms {found.false_alarms:.1%}"
    )


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


@app.command("envelope")
def envelope_command(plot: Annotated[Path, typer.Option(help="Where the figure goes, an .svg.")]) -> None:
    """The figure of docs/allocation.md: two curves, their envelopes, and a price."""
    save(envelope_figure(), plot)


@app.command("traces")
def traces_command(
    curves: FileOption,
    questions: Annotated[Path, typer.Option("--questions")],
    check: Annotated[str, typer.Option(help="exact or maths.")] = "exact",
    plot: PlotOption = None,
) -> None:
    """Self-consistency: several traces beside longer reasoning."""
    asked = {question.question_id: expected_of(question) for question in read_questions(questions)}
    rows = pq.read_table(curves, columns=["question_id", "answers"]).to_pylist()
    found = vote_curves(
        [row["answers"] for row in rows], [asked[row["question_id"]] for row in rows], checker(check), canonical(check)
    )
    table = traces_table(found)
    _show(table, plot, table.lines(1, "reasoning tokens of all traces together", "accuracy, %"))


if __name__ == "__main__":
    app()
