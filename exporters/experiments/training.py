"""What training needs: how many questions, which layer, and whether it carries over to other tasks and models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters.experiments.table import BUDGETS, Floats, Table, gains, points
from exporters.measure.curves import Curves, pearson
from exporters.measure.hidden_states import read_hidden_states
from exporters.predictors.ensemble import Recipe
from exporters.predictors.train import train
from scheduler_service.allocation.envelope import Envelope


def training_size(
    training: Curves, hidden: NDArray[np.float32], test: Curves, test_hidden: NDArray[np.float32]
) -> Table:
    """Train the hidden-state predictor on ever fewer questions."""
    rows = []
    order = np.random.default_rng(0).permutation(len(training.ids))
    for count in (100, 300, 1000, 3000):
        chosen = order[:count]
        part = training.chosen(chosen)
        recipe = Recipe(members=5, epochs=min(100, 20 * 3000 // count), batch=min(128, count // 4))
        trained, _ = train("hidden_state_mlp", part, hidden[chosen], recipe)
        curves = trained.reference(test.questions, test_hidden)
        rows.append([f"{count}", f"{pearson(curves, test.accuracy):.3f}", *points(gains(curves, test.accuracy))])
    return Table(["questions", "r", *[f"{budget} tokens" for budget in BUDGETS]], rows)


def layer_sweep(curves: Curves, folder: Path) -> Table:
    """Train the hidden-state predictor on each layer's states (``folder/layer-LL.npz``); scored on held-out rows."""
    rows = []
    for path in sorted(folder.glob("layer-*.npz")):
        hidden = read_hidden_states(path, curves.ids)
        recipe = Recipe(members=5, epochs=60, batch=64, dropout=0.3, input_dropout=0.2)
        trained, predicted = train("hidden_state_mlp", curves, hidden, recipe)
        rows.append(
            [
                path.stem.removeprefix("layer-").lstrip("0") or "0",
                f"{trained.calibration.validation['pearson']:.3f}",
                *points(gains(predicted, curves.accuracy, (32, 64))),
            ]
        )
    return Table(["layer", "r", "32 tokens", "64 tokens"], rows)


def generalisation(curves: Curves, groups: NDArray[np.str_], hidden: NDArray[np.float32] | None) -> Table:
    """Predict each group of questions (a kind of task) with a predictor that was trained on all the others.

    Beside it: predictors that saw the group's other questions, by cross-validation; and no prediction but the mean.
    """
    budgets = (32, 48, 64)
    kinds = ("text_curve",) if hidden is None else ("text_curve", "hidden_state_mlp")
    recipe = Recipe(members=5, epochs=60, batch=64, dropout=0.3, input_dropout=0.2)
    rows = []
    for kind in kinds:
        states = hidden if kind == "hidden_state_mlp" else None
        _, seen = train(kind, curves, states, recipe)
        unseen = np.empty_like(seen)
        for group in np.unique(groups):
            rest, own = np.flatnonzero(groups != group), np.flatnonzero(groups == group)
            trained, _ = train(kind, curves.chosen(rest), None if states is None else states[rest], recipe)
            texts = curves.chosen(own).questions
            unseen[own] = trained.reference(texts, None if states is None else states[own])
        for label, predicted in (("trained on this kind of task too", seen), ("never saw this kind of task", unseen)):
            inside = [
                pearson(predicted[groups == name], curves.accuracy[groups == name])
                for name in np.unique(groups)
                if np.ptp(curves.accuracy[groups == name])  # a task that is never solved has no correlation
            ]
            rows.append(
                [
                    kind,
                    label,
                    f"{pearson(predicted, curves.accuracy):.2f}",
                    f"{np.median(inside):.2f}",
                    *points(gains(predicted, curves.accuracy, budgets)),
                ]
            )
    return Table(["predictor", "", "r", "median r within a task", *[f"{budget} tokens" for budget in budgets]], rows)


def other_model(predicted: Floats, own: Curves, others: dict[str, Curves]) -> Table:
    """Allocate another model's tokens by this model's predictions, and by its own measured mean curve added in.

    ``predicted``: curves (n, K) of the questions of ``own``; ``others``: by name, curves of the same questions measured
    on another model. "moved": the predictions are moved by the difference of the mean curves, which a few hundred
    answers of the other model tell.
    """
    budgets = (32, 48, 64)
    rows = []
    for name, measured in {"the model it was trained on": own, **others}.items():
        windows = min(predicted.shape[1], measured.accuracy.shape[1])
        curves, truth = predicted[:, :windows], measured.accuracy[:, :windows]
        moved = np.clip(curves + truth.mean(axis=0) - curves.mean(axis=0), 0, 1)
        for label, table in (("as it is", curves), ("moved", moved)):
            if measured is own and label == "moved":
                continue
            oracle = gains(truth, truth, budgets, Envelope(spread=False))
            found = [
                f"{gain:+.1f} of {best:+.1f}" for gain, best in zip(gains(table, truth, budgets), oracle, strict=True)
            ]
            rows.append([name, f"{truth[:, -1].mean():.0%}", label, f"{pearson(table, truth):.2f}", *found])
    return Table(
        [
            "model",
            "accuracy unlimited",
            "predictions",
            "r",
            *[f"{budget} tokens, of the oracle's" for budget in budgets],
        ],
        rows,
    )
