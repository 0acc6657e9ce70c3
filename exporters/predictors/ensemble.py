"""The head that every predictor shares: an ensemble of small MLPs, trained with torch, written as ONNX nodes.

A member is dropout → Linear → LayerNorm → GELU → dropout → Linear → sigmoid, fitted by binary cross-entropy to measured
accuracies (fractions) with mixup (Zhang et al. 2018): both dropouts and mixup matter more than width, since a curve of
a hundred samples is noise to one part in twenty. The ensemble predicts the mean of its members' outputs. For classes
the sigmoid is a softmax, and the outputs are probabilities; whatever says "curve" here is then a row of those.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.predictors.onnx_graph import GraphBuilder

Floats = NDArray[np.float32]
Link = Literal["sigmoid", "softmax"]


@dataclass(frozen=True)
class Recipe:
    """What decides an ensemble; one member per fold.

    ``mixup``: parameter of the beta distribution, 0 for none. ``scale_power``: inputs are divided by their standard
    deviation to this power; below 1, rare n-grams are not blown up to the size of frequent ones.
    """

    members: int = 10
    hidden: int = 64
    epochs: int = 20
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    input_dropout: float = 0.25
    dropout: float = 0.5
    mixup: float = 0.4
    clip: float = 6.0
    scale_power: float = 1.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Member:
    """One trained MLP's weights: (d, h), (h,), (h,), (h,), (h, K), (K,)."""

    first: Floats
    first_bias: Floats
    norm_scale: Floats
    norm_bias: Floats
    second: Floats
    second_bias: Floats


@dataclass(frozen=True, eq=False)
class Ensemble:
    """A trained ensemble. ``centre``, ``scale``: (d,) of the inputs; ``keep``: shrinkage toward ``mean_curve`` (K,)."""

    members: list[Member]
    centre: Floats
    scale: Floats
    clip: float
    keep: float
    mean_curve: Floats
    link: Link = "sigmoid"

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything in arrays by name, for ``from_arrays``."""
        stacked = {f.name: np.stack([getattr(member, f.name) for member in self.members]) for f in fields(Member)}
        own = {f.name: np.array(getattr(self, f.name)) for f in fields(self) if f.name != "members"}
        return {**stacked, **own}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Ensemble:
        """The ensemble that ``arrays`` were taken of."""
        members = [Member(**{f.name: arrays[f.name][at] for f in fields(Member)}) for at in range(len(arrays["first"]))]
        link: Link = "softmax" if str(arrays["link"]) == "softmax" else "sigmoid"
        return cls(
            members, arrays["centre"], arrays["scale"], float(arrays["clip"]), float(arrays["keep"]),
            arrays["mean_curve"], link,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write the arrays."""
        np.savez_compressed(path, **self.arrays())  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Ensemble:
        """Return the ensemble that ``save`` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls.from_arrays(dict(arrays))


def train_ensemble(x: Floats, y: Floats, recipe: Recipe, link: Link = "sigmoid") -> tuple[Ensemble, Floats]:
    """Fit an ensemble to inputs (n, d) and targets (n, K); member i holds out fold i.

    Returns it with its predictions (n, K) for the same rows, each by members that did not see the row. The shrinkage is
    the least-squares factor on those, so no member's optimism enters it; they are shrunk alike.
    """
    centre, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-2) ** recipe.scale_power
    inputs = standardised(x, centre, scale, recipe.clip)
    mean_curve = y.mean(axis=0)
    fold = np.random.default_rng(recipe.seed).permutation(len(x)) % recipe.members
    held_out = np.zeros_like(y)
    members = []
    for at in range(recipe.members):
        net = _fit(inputs[fold != at], y[fold != at], recipe, link, recipe.seed + at)
        with torch.no_grad():
            logits = net(torch.from_numpy(inputs[fold == at]))
            outputs = torch.sigmoid(logits) if link == "sigmoid" else torch.softmax(logits, dim=1)
        held_out[fold == at] = outputs.numpy()
        members.append(_member(net))
    keep = best_shrinkage(held_out, y, mean_curve)
    ensemble = Ensemble(members, centre, scale, recipe.clip, keep, mean_curve, link)
    return ensemble, mean_curve + keep * (held_out - mean_curve)


def standardised(x: Floats, centre: Floats, scale: Floats, clip: float) -> Floats:
    """Inputs as the members see them."""
    result: Floats = np.clip((x - centre) / scale, -clip, clip).astype(np.float32)
    return result


def best_shrinkage(predicted: Floats, measured: Floats, mean_curve: Floats) -> float:
    """The factor from 0 to 1 that fits predictions' distance to the mean curve to the measured one (least squares)."""
    distance = predicted - mean_curve
    power = float((distance**2).sum())
    return float(np.clip((distance * (measured - mean_curve)).sum() / power, 0.0, 1.0)) if power > 0 else 0.0


def _fit(x: Floats, y: Floats, recipe: Recipe, link: Link, seed: int) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = torch.nn.Sequential(
        torch.nn.Dropout(recipe.input_dropout),
        torch.nn.Linear(x.shape[1], recipe.hidden),
        torch.nn.LayerNorm(recipe.hidden),
        torch.nn.GELU(),
        torch.nn.Dropout(recipe.dropout),
        torch.nn.Linear(recipe.hidden, y.shape[1]),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * -(-len(x) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.15)
    loss_of = torch.nn.BCEWithLogitsLoss() if link == "sigmoid" else torch.nn.CrossEntropyLoss()
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    net.train()
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(inputs)).split(recipe.batch):
            batch, wanted = inputs[rows], targets[rows]
            if recipe.mixup:
                share = torch.from_numpy(rng.beta(recipe.mixup, recipe.mixup, (len(rows), 1)).astype(np.float32))
                other = torch.randperm(len(rows))
                batch = share * batch + (1 - share) * batch[other]
                wanted = share * wanted + (1 - share) * wanted[other]
            optimizer.zero_grad()
            loss_of(net(batch), wanted).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def _member(net: torch.nn.Sequential) -> Member:
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    return Member(
        state["1.weight"].T.copy(),
        state["1.bias"],
        state["2.weight"],
        state["2.bias"],
        state["5.weight"].T.copy(),
        state["5.bias"],
    )


def add_ensemble(
    build: GraphBuilder, features: str, ensemble: Ensemble, output: str = "curve", prefix: str = ""
) -> str:
    """Add the ensemble to a graph after ``features`` (n, d); returns its ``output``'s name (n, K).

    The members run side by side as one wide layer. ``prefix``: of the names of nodes, where a graph has two ensembles.
    """
    members = ensemble.members
    count, hidden = len(members), members[0].first.shape[1]

    def constant(name: str, value: NDArray[Any]) -> None:
        build.constant(prefix + name, value)

    def add(operator: str, inputs: list[str], result: str, **attributes: Any) -> str:
        own = [name if name == features else prefix + name for name in inputs]
        return build.add(operator, own, result if result == output else prefix + result, **attributes)

    constant("centre", ensemble.centre)
    constant("scale", ensemble.scale)
    constant("low", np.array(-ensemble.clip, np.float32))
    constant("high", np.array(ensemble.clip, np.float32))
    constant("split", np.array([-1, count, hidden], np.int64))
    constant("hidden_weight", np.concatenate([member.first for member in members], axis=1))
    constant("hidden_bias", np.concatenate([member.first_bias for member in members]))
    constant("unit", np.ones(hidden, np.float32))
    constant("norm_scale", np.stack([member.norm_scale for member in members]))
    constant("norm_bias", np.stack([member.norm_bias for member in members]))
    constant("curve_weight", np.stack([member.second for member in members]))
    constant("curve_bias", np.stack([member.second_bias for member in members])[:, None, :])
    constant("member_axis", np.array([0], np.int64))
    constant("keep", np.array(ensemble.keep, np.float32))
    constant("mean_part", ((1 - ensemble.keep) * ensemble.mean_curve).astype(np.float32))
    add("Sub", [features, "centre"], "centred")
    add("Div", ["centred", "scale"], "scaled")
    add("Clip", ["scaled", "low", "high"], "clipped")
    add("Gemm", ["clipped", "hidden_weight", "hidden_bias"], "hidden_in")
    add("Reshape", ["hidden_in", "split"], "by_row")
    add("LayerNormalization", ["by_row", "unit"], "normalised", axis=-1, epsilon=1e-5)
    add("Mul", ["normalised", "norm_scale"], "rescaled")
    add("Add", ["rescaled", "norm_bias"], "shifted")
    add("Gelu", ["shifted"], "active")
    add("Transpose", ["active"], "by_member", perm=[1, 0, 2])
    add("MatMul", ["by_member", "curve_weight"], "logits_in")
    add("Add", ["logits_in", "curve_bias"], "logits")
    if ensemble.link == "sigmoid":
        add("Sigmoid", ["logits"], "member_curves")
    else:
        add("Softmax", ["logits"], "member_curves", axis=-1)
    add("ReduceMean", ["member_curves", "member_axis"], "mean_of_members", keepdims=0)
    add("Mul", ["mean_of_members", "keep"], "kept")
    return add("Add", ["kept", "mean_part"], output)


def predict(ensemble: Ensemble, x: Floats) -> Floats:
    """The ensemble's outputs by numpy: the reference that the ONNX graph is compared with. (n, d) → (n, K)."""
    inputs = standardised(x, ensemble.centre, ensemble.scale, ensemble.clip)
    curves: list[Floats] = []
    for member in ensemble.members:
        raw = inputs @ member.first + member.first_bias
        normal = (raw - raw.mean(axis=1, keepdims=True)) / np.sqrt(raw.var(axis=1, keepdims=True) + 1e-5)
        hidden = torch.nn.functional.gelu(torch.from_numpy(normal * member.norm_scale + member.norm_bias)).numpy()
        logits = hidden @ member.second + member.second_bias
        if ensemble.link == "sigmoid":
            curves.append(1 / (1 + np.exp(-logits)))
        else:
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            curves.append(odds / odds.sum(axis=1, keepdims=True))
    mean = np.mean(curves, axis=0)
    result: Floats = ensemble.mean_curve + ensemble.keep * (mean - ensemble.mean_curve)
    return result
