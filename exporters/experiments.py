"""The paper's open questions, answered on a curves file: each experiment is a function that returns a table.

``python -m exporters.experiments NAME …`` prints one as Markdown; ``docs/experiments.md`` holds what they printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from exporters.curves import WINDOW_TOKENS, Curves, pearson, read_curves
from exporters.ensemble import Recipe, best_shrinkage
from exporters.evaluate import plan_problem, predict_curves
from exporters.hidden_states import read_hidden_states
from predictor_service.model import LoadedModel
from scheduler_service.allocation import POLICIES, Problem, accuracy_at, make_plan

Floats = NDArray[np.float64]
BUDGETS = (32, 64, 96, 128, 192)


@dataclass(frozen=True)
class Table:
    """A table of results: column names and rows of text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def gains(predicted: Floats, measured: Floats, budgets: Sequence[int] = BUDGETS) -> list[float]:
    """Points over uniform of the guarded envelope plan, at each mean budget."""
    everyone = np.ones(len(measured), dtype=bool)
    found = []
    for budget in budgets:
        plan = make_plan(POLICIES["envelope"], plan_problem(predicted, budget), everyone)
        planned, uniform = (accuracy_at(measured, b, WINDOW_TOKENS).mean() for b in (plan.budgets, plan.baselines))
        found.append(100 * float(planned - uniform))
    return found


def _points(values: Sequence[float]) -> list[str]:
    return [f"{value:+.1f}" for value in values]


def noise(predicted: Floats, measured: Floats, seed: int = 0) -> Table:
    """Add a normal error of growing deviation to each question's log-odds curve, one draw a question; last, pure noise:
    every question gets another one's prediction.

    The second line of each pair shrinks the noisy curves toward the mean curve by the factor that fits one half of the
    questions best, applied to the other half and back: what a scheduler that measures its predictor does.
    """
    rng = np.random.default_rng(seed)
    inside = np.clip(predicted, 1e-3, 1 - 1e-3)
    odds = np.log(inside / (1 - inside))
    direction = rng.normal(size=(len(predicted), 1))
    rows = []
    disturbed = {f"{size:g}": 1 / (1 + np.exp(-(odds + size * direction))) for size in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)}
    disturbed["exchanged"] = predicted[rng.permutation(len(predicted))]
    for deviation, noisy in disturbed.items():
        shrunk = _cross_shrunk(noisy, measured, rng)
        for name, curves in (("as it is", noisy), ("shrunk", shrunk)):
            correlation = f"{pearson(curves, measured):.2f}"
            rows.append([deviation, name, correlation, *_points(gains(curves, measured))])
    return Table(["deviation", "curves", "r", *[f"{budget} tokens" for budget in BUDGETS]], rows)


def _cross_shrunk(predicted: Floats, measured: Floats, rng: np.random.Generator) -> Floats:
    half = rng.permutation(len(predicted)) % 2 == 0
    result = np.empty_like(predicted)
    for fit, use in ((half, ~half), (~half, half)):
        mean = measured[fit].mean(axis=0)
        keep = best_shrinkage(
            predicted[fit].astype(np.float32), measured[fit].astype(np.float32), mean.astype(np.float32)
        )
        result[use] = mean + keep * (predicted[use] - mean)
    return np.clip(result, 0, 1)


def starvation(predicted: Floats, measured: Floats, budget: int = 64, seed: int = 0) -> Table:
    """Exchange the predictions of a share of the questions, and count who starves under floors of 1 to 3 windows.

    Starved: a question whose accuracy with its budget is at least 20 points below that with the uniform budget.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(predicted))
    uniform = accuracy_at(measured, np.full(len(measured), budget), WINDOW_TOKENS)
    rows = []
    for share in (0.0, 0.1, 0.3, 0.5):
        swapped = order[: int(share * len(order))]
        curves = predicted.copy()
        curves[swapped] = predicted[np.roll(swapped, 1)]
        for floor in (16, 32, 48):
            count, windows = curves.shape
            caps = np.full(count, windows * WINDOW_TOKENS)
            problem = Problem(curves, np.full(count, floor), caps, budget * count, WINDOW_TOKENS)
            accuracy = accuracy_at(measured, POLICIES["envelope"].allocate(problem), WINDOW_TOKENS)
            starved = (uniform - accuracy) >= 0.2
            rows.append(
                [
                    f"{share:.0%}",
                    str(floor),
                    f"{100 * float((accuracy - uniform).mean()):+.1f}",
                    f"{float(starved.mean()):.1%}",
                    f"{100 * float((uniform - accuracy)[starved].mean()) if starved.any() else 0:.0f}",
                ]
            )
    return Table(["misclassified", "floor, tokens", "gain, points", "starved", "their loss, points"], rows)


def buckets(
    curves: Curves, classes: dict[str, NDArray[np.str_]], training: Curves, train_classes: NDArray[np.str_]
) -> Table:
    """Allocate by the mean training curve of each difficulty class, and by a size baseline, as the paper does.

    Size baseline: the class tells a length (the smallest budget with 95 % of its mean curve's best accuracy); everybody
    gets theirs, all scaled by one factor to the budget.
    """
    names = sorted(set(train_classes.tolist()))
    means = {name: training.accuracy[train_classes == name].mean(axis=0) for name in names}
    lengths = {name: WINDOW_TOKENS * (1 + int(np.argmax(mean >= 0.95 * mean.max()))) for name, mean in means.items()}
    rows = []
    for label, predicted in classes.items():
        table = np.array([means[name] for name in predicted])
        rows.append([f"{label}: curve of the class", *_points(gains(table, curves.accuracy))])
        sizes = np.array([lengths[name] for name in predicted], dtype=float)
        rows.append([f"{label}: size baseline", *_points([_size_gain(sizes, curves.accuracy, b) for b in BUDGETS])])
    return Table(["policy", *[f"{budget} tokens" for budget in BUDGETS]], rows)


def _size_gain(sizes: Floats, measured: Floats, budget: int) -> float:
    """Points over uniform when everybody gets a length in proportion to its size, within one window and the cap."""
    cap = measured.shape[1] * WINDOW_TOKENS
    low, high = 0.0, 100.0
    for _ in range(50):
        factor = (low + high) / 2
        planned = np.clip(sizes * factor, WINDOW_TOKENS, cap)
        low, high = (factor, high) if planned.mean() <= budget else (low, factor)
    planned = np.clip(sizes * low, WINDOW_TOKENS, cap)
    uniform = accuracy_at(measured, np.full(len(measured), budget), WINDOW_TOKENS).mean()
    return 100 * float(accuracy_at(measured, planned, WINDOW_TOKENS).mean() - uniform)


def training_size(
    training: Curves, hidden: NDArray[np.float32], test: Curves, test_hidden: NDArray[np.float32]
) -> Table:
    """Train the hidden-state predictor on ever fewer questions."""
    from exporters.ensemble import predict  # torch is needed by this experiment only
    from exporters.train import train

    rows = []
    order = np.random.default_rng(0).permutation(len(training.ids))
    for count in (100, 300, 1000, 3000):
        chosen = order[:count]
        part = Curves(
            [training.ids[i] for i in chosen], [training.questions[i] for i in chosen], training.accuracy[chosen]
        )
        recipe = Recipe(members=5, epochs=min(100, 20 * 3000 // count), batch=min(128, count // 4))
        trained = train("hidden_state_mlp", part, hidden[chosen], recipe)
        curves = np.clip(predict(trained.ensemble, test_hidden), 0, 1).astype(np.float64)
        rows.append([f"{count}", f"{pearson(curves, test.accuracy):.3f}", *_points(gains(curves, test.accuracy))])
    return Table(["questions", "r", *[f"{budget} tokens" for budget in BUDGETS]], rows)


def layer_sweep(curves: Curves, folder: Path) -> Table:
    """Train the hidden-state predictor on each layer's states (``folder/layer-LL.npz``); scored on held-out rows."""
    from exporters.train import train  # torch is needed by this experiment only

    rows = []
    for path in sorted(folder.glob("layer-*.npz")):
        hidden = read_hidden_states(path, curves.ids)
        recipe = Recipe(members=5, epochs=60, batch=64, dropout=0.3, input_dropout=0.2)
        trained = train("hidden_state_mlp", curves, hidden, recipe)
        predicted = np.clip(trained.ensemble.held_out, 0, 1).astype(np.float64)
        rows.append(
            [
                path.stem.removeprefix("layer-").lstrip("0") or "0",
                f"{trained.validation['pearson']:.3f}",
                *_points(gains(predicted, curves.accuracy, (32, 64))),
            ]
        )
    return Table(["layer", "r", "32 tokens", "64 tokens"], rows)


app = typer.Typer(help=__doc__, no_args_is_help=True)
FileOption = Annotated[Path, typer.Option("--curves")]
ModelOption = Annotated[Path, typer.Option("--model")]
StatesOption = Annotated[Path | None, typer.Option("--hidden-states")]


def _predicted(curves: Curves, model: Path, hidden: Path | None) -> Floats:
    states = read_hidden_states(hidden, curves.ids) if hidden else None
    return predict_curves(LoadedModel(model), curves, states)


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
) -> None:
    """Curves per difficulty class beside the size baseline."""
    import pyarrow.parquet as pq

    def classes(path: Path, name: str) -> NDArray[np.str_]:
        return np.array(pq.read_table(path, columns=[name])[name].to_pylist())

    found = {name: classes(curves, name) for name in column}
    table = buckets(read_curves(curves), found, read_curves(training), classes(training, train_column))
    typer.echo(table.markdown())


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


if __name__ == "__main__":
    app()
