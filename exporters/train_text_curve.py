"""Train a ``text_curve`` predictor from a curves file: text straight to a curve, one ONNX graph, no LLM.

An ensemble of small MLPs (mean of their sigmoids) on the features of ``text_graph``. Its curves are then shrunk toward
the training data's mean curve by the factor that fits held-out questions best, so that an unsure model asks for little
more than uniform. Run ``python -m exporters.train_text_curve --curves F.parquet --name NAME --out FOLDER`` (extra
``train``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
import typer
from numpy.typing import NDArray

from exporters.curves import WINDOW_TOKENS, Curves, read_curves
from exporters.text_graph import GraphBuilder, add_features, add_tokens, text_features, vocabulary_of
from predictor_service.artifact import Manifest, digest, write_manifest
from predictor_service.model import LoadedModel

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """What decides the model. ``patience``: epochs without a better validation loss before a member stops."""

    hidden: int = 48
    members: int = 8
    epochs: int = 600
    patience: int = 60
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    dropout: float = 0.1
    min_texts: int = 4
    most_grams: int = 2000
    validation_share: float = 0.2
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Member:
    """One trained MLP: features → hidden (ReLU) → logits of the curve."""

    first: Floats
    first_bias: Floats
    second: Floats
    second_bias: Floats


def fit_member(x: Floats, y: Floats, x_held: Floats, y_held: Floats, recipe: Recipe, seed: int) -> Member:
    """Fit one MLP with early stopping on the held-out rows."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], recipe.hidden),
        torch.nn.ReLU(),
        torch.nn.Dropout(recipe.dropout),
        torch.nn.Linear(recipe.hidden, y.shape[1]),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    loss_of = torch.nn.BCEWithLogitsLoss()
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    held_inputs, held_targets = torch.from_numpy(x_held), torch.from_numpy(y_held)
    best, best_loss, waited = net.state_dict(), float("inf"), 0
    for _ in range(recipe.epochs):
        net.train()
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            loss_of(net(inputs[rows]), targets[rows]).backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            loss = float(loss_of(net(held_inputs), held_targets))
        if loss < best_loss:
            best, best_loss, waited = {key: value.clone() for key, value in net.state_dict().items()}, loss, 0
        elif (waited := waited + 1) > recipe.patience:
            break
    weights = [best[key].numpy() for key in ("0.weight", "0.bias", "3.weight", "3.bias")]
    return Member(weights[0].T.copy(), weights[1], weights[2].T.copy(), weights[3])


def add_ensemble(build: GraphBuilder, features: str, members: list[Member], centre: Floats, scale: Floats) -> str:
    """Add the mean of the members' sigmoid curves: (n, K); returns the output's name.

    The members run as one wide hidden layer and one batched product.
    """
    count, hidden = len(members), members[0].first.shape[1]
    build.constant("centre", centre)
    build.constant("scale", scale)
    build.constant("hidden_weight", np.concatenate([member.first for member in members], axis=1))
    build.constant("hidden_bias", np.concatenate([member.first_bias for member in members]))
    build.constant("curve_weight", np.stack([member.second for member in members]))
    build.constant("curve_bias", np.stack([member.second_bias for member in members])[:, None, :])
    build.constant("split", np.array([-1, count, hidden], np.int64))
    build.add("Sub", [features, "centre"], "centred")
    build.add("Div", ["centred", "scale"], "scaled")
    build.add("Gemm", ["scaled", "hidden_weight", "hidden_bias"], "hidden_in")
    build.add("Relu", ["hidden_in"], "hidden_out")
    build.add("Reshape", ["hidden_out", "split"], "by_row")
    build.add("Transpose", ["by_row"], "by_member", perm=[1, 0, 2])
    build.add("MatMul", ["by_member", "curve_weight"], "logits_in")
    build.add("Add", ["logits_in", "curve_bias"], "logits")
    build.add("Sigmoid", ["logits"], "member_curves")
    build.constant("member_axis", np.array([0], np.int64))
    return build.add("ReduceMean", ["member_curves", "member_axis"], "raw_curve", keepdims=0)


def add_shrinkage(build: GraphBuilder, curve: str, mean_curve: Floats, keep: float) -> str:
    """Add ``mean + keep · (curve − mean)``; returns the output's name, ``curve``."""
    build.constant("keep", np.array([keep], np.float32))
    build.constant("mean_part", (1 - keep) * mean_curve)
    build.add("Mul", [curve, "keep"], "kept")
    return build.add("Add", ["kept", "mean_part"], "curve")


def best_shrinkage(predicted: Floats, measured: Floats, mean_curve: Floats) -> float:
    """The factor from 0 to 1 that fits predictions' distance to the mean curve to the measured one (least squares)."""
    distance = predicted - mean_curve
    power = float((distance**2).sum())
    return float(np.clip((distance * (measured - mean_curve)).sum() / power, 0.0, 1.0)) if power > 0 else 0.0


def train(curves: Curves, recipe: Recipe) -> tuple[onnx.ModelProto, Floats, Floats, dict[str, float]]:
    """Train on a curves file. Returns the graph, the mean curve, the held-out error's deviation, and metrics.

    A fifth of the questions is held out in turn (cross-validation): each member stops early on its own fifth, and the
    metrics are of predictions by members that did not see the question.
    """
    y = curves.accuracy.astype(np.float32)
    mean_curve = y.mean(axis=0)
    vocabulary = vocabulary_of(curves.questions, min_texts=recipe.min_texts, most=recipe.most_grams)
    raw = text_features(curves.questions, vocabulary)
    centre, scale = raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-2)
    x = (raw - centre) / scale
    folds = round(1 / recipe.validation_share)
    fold_of = np.random.default_rng(recipe.seed).permutation(len(x)) % folds
    members, held_out, counts = [], np.zeros_like(y), np.zeros(len(x))
    for at in range(max(recipe.members, folds)):
        held = fold_of == at % folds
        member = fit_member(x[~held], y[~held], x[held], y[held], recipe, recipe.seed + at)
        members.append(member)
        held_out[held] += _curve_of(member, x[held])
        counts[held] += 1
    held_out /= counts[:, None]
    keep = best_shrinkage(held_out, y, mean_curve)
    held_out = mean_curve + keep * (held_out - mean_curve)
    build = GraphBuilder()
    features = add_features(build, add_tokens(build), vocabulary)
    output = add_shrinkage(build, add_ensemble(build, features, members, centre, scale), mean_curve, keep)
    metrics = {
        "pearson": float(np.corrcoef(held_out.ravel(), y.ravel())[0, 1]),
        "rmse": float(np.sqrt(((held_out - y) ** 2).mean())),
        "rmse_of_mean_curve": float(np.sqrt(((mean_curve - y) ** 2).mean())),
        "shrinkage": keep,
        "features": float(raw.shape[1]),
    }
    return build.model(output, y.shape[1]), mean_curve, (held_out - y).std(axis=0), metrics


def _curve_of(member: Member, x: Floats) -> Floats:
    hidden = np.maximum(x @ member.first + member.first_bias, 0)
    curve: Floats = 1 / (1 + np.exp(-(hidden @ member.second + member.second_bias)))
    return curve


def export(
    graph: onnx.ModelProto,
    folder: Path,
    *,
    name: str,
    version: str,
    data: Path,
    mean_curve: Floats,
    uncertainty: Floats,
    metrics: dict[str, float],
) -> Manifest:
    """Write a model folder and load it as the predictor would. Raises ArtifactError where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, folder / "model.onnx")
    manifest = Manifest(
        name=name,
        version=version,
        kind="text_curve",
        budget_window_tokens=WINDOW_TOKENS,
        windows=len(mean_curve),
        takes_text=True,
        hidden_size=0,
        layer=0,
        max_text_bytes=32768,
        training_data={"name": data.name, "digest": digest(data)},
        validation={key: round(value, 4) for key, value in metrics.items()},
        reliability=round(max(0.0, metrics["pearson"]), 4),
        mean_curve=[round(float(value), 4) for value in mean_curve],
        uncertainty=[round(float(value), 4) for value in uncertainty],
    )
    written = write_manifest(folder, manifest)
    LoadedModel(folder)
    return written


def main(curves: Path, out: Path, name: str, version: str = "1", seed: int = 0) -> None:
    """Train on a curves file and write a model folder."""
    recipe = Recipe(seed=seed)
    graph, mean_curve, uncertainty, metrics = train(read_curves(curves), recipe)
    manifest = export(
        graph,
        out,
        name=name,
        version=version,
        data=curves,
        mean_curve=mean_curve,
        uncertainty=uncertainty,
        metrics=metrics,
    )
    typer.echo(json.dumps(manifest.validation, indent=1))


if __name__ == "__main__":
    typer.run(main)
