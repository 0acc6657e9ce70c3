"""How far a query lies from what a predictor was trained on, as further nodes of its graph.

Theory of operation. What training had is a few clusters of one shape: vectors (the style of texts, hidden states in
their 64 largest components) are whitened by their spread within clusters, and a query's distance is the squared one to
the nearest centre, as a multiple of what held-out training questions have on average. A predictor of both inputs takes
the larger of the two. The limit is what two in a hundred held-out training questions exceed: those are the false
alarms. Of few questions that is the furthest one, and the rate that is stated is three in as many. It says nothing of
how many strange queries are found; ``docs/experiments.md`` measures that. States of an encoder that was trained itself
lie nearer to their centres where it saw the question, so that only questions it never saw say what is usual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.predictors.onnx_graph import GraphBuilder
from exporters.predictors.text_style import TextStyle, Words, add_style, held_out_figures

Floats = NDArray[np.float32]
FALSE_ALARMS = 0.02
LEAST_QUESTIONS = 40
_LEAST_ALARMS = 3  # of as many questions: a smaller share than that of them cannot be told
_FOLDS = 5
_FILE = "familiarity.npz"
_COMPONENTS = 64
_CLUSTERS = 8
_CLUSTER_QUESTIONS = 16  # a cluster has as many on average, or more
_ROUNDS = 20
FURTHEST = 1000.0  # deviations: what is further off counts as that far, so that no float32 overflows
# Texts of one template hardly differ: without these, rounding would look like a distance.
_LEAST_SCALE, _LEAST_STYLE_SCALE = 1e-3, 1e-2  # a style is computed in float32, states are given
_LEAST_VARIANCE = 1e-4  # of standardised vectors
_LEAST_UNIT = 0.1  # of whitened ones, whose distances are about as large as they have components


@dataclass(frozen=True, eq=False)
class Distance:
    """Distance of vectors (n, d): standardised by ``centre``, ``scale`` (d,), whitened by ``whiten`` (d, r).

    ``centres``: (c, r) of the clusters. ``unit``: the mean of held-out vectors' squared distances.
    """

    centre: Floats
    scale: Floats
    whiten: Floats
    centres: Floats
    unit: float = 1.0

    @classmethod
    def of(cls, x: Floats, seed: int, least_scale: float) -> Distance:
        """Fit to the vectors of training questions; a component that varies less is divided by ``least_scale``."""
        centre, scale = x.mean(axis=0), np.maximum(x.std(axis=0), least_scale)
        z = ((x - centre) / scale).astype(np.float64)
        size = min(_COMPONENTS, x.shape[1])
        _, vectors = np.linalg.eigh(z.T @ z)
        basis = vectors[:, ::-1][:, :size]
        y = z @ basis
        means, cluster = _clusters(y, max(1, min(_CLUSTERS, len(x) // _CLUSTER_QUESTIONS)), seed)
        within = np.atleast_2d(np.cov((y - means[cluster]).T))
        # What never varied would count without bound.
        within += max(0.01 * np.trace(within) / size + 1e-6, _LEAST_VARIANCE) * np.eye(size)
        shape = np.linalg.cholesky(np.linalg.inv(within))
        parts: list[Floats] = [part.astype(np.float32) for part in (centre, scale, basis @ shape, means @ shape)]
        return cls(parts[0], parts[1], parts[2], parts[3])

    def measure(self, x: Floats) -> NDArray[np.float64]:
        """Distances (n,) of vectors (n, d), in units."""
        z = np.clip((x.astype(np.float64) - self.centre) / self.scale, -FURTHEST, FURTHEST)
        squared = ((z @ self.whiten)[:, None, :] - self.centres) ** 2
        found: NDArray[np.float64] = squared.sum(axis=2).min(axis=1) / self.unit
        return found


@dataclass(frozen=True, eq=False)
class Familiarity:
    """What a predictor was trained on: the ``style`` of its texts, ``text`` the distance of styles, ``states`` theirs.

    ``limit``: distance above which it should abstain, exceeded by the share ``false_alarms`` of training questions.
    """

    style: TextStyle | None
    text: Distance | None
    states: Distance | None
    limit: float
    false_alarms: float

    def measure(self, texts: Sequence[str], hidden: Floats | None) -> NDArray[np.float64]:
        """The distances (n,) of queries by numpy: the reference that the graph is compared with."""
        parts = []
        if self.style is not None and self.text is not None:
            parts.append(self.text.measure(self.style.of_texts(texts)))
        if self.states is not None and hidden is not None:
            parts.append(self.states.measure(hidden))
        found: NDArray[np.float64] = np.max(parts, axis=0)
        return found

    def save(self, path: Path) -> None:
        """Write the arrays."""
        arrays = {"limits": np.array([self.limit, self.false_alarms])}
        for name, part in (("text", self.text), ("states", self.states)):
            if part is not None:
                arrays |= {f"{name}_{one.name}": np.array(getattr(part, one.name)) for one in fields(Distance)}
        if self.style is not None:
            arrays |= {f"style_{name}": value for name, value in self.style.arrays().items()}
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Familiarity:
        """Return what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)

        def part(name: str) -> Distance | None:
            own = {one.name: arrays.get(f"{name}_{one.name}") for one in fields(Distance)}
            return None if own["unit"] is None else Distance(**{**own, "unit": float(own["unit"])})  # type: ignore[arg-type]

        style = {name.removeprefix("style_"): value for name, value in arrays.items() if name.startswith("style_")}
        limit, false_alarms = arrays["limits"].tolist()
        return cls(TextStyle.from_arrays(style) if style else None, part("text"), part("states"), limit, false_alarms)


def limits_of(known: Familiarity | None) -> dict[str, Any]:
    """What a manifest says of it, as its fields; nothing where there is nothing known."""
    if known is None:
        return {}
    return {"most_unfamiliarity": round(known.limit, 4), "false_alarm_rate": known.false_alarms}


def keep(known: Familiarity | None, folder: Path) -> None:
    """Write it beside a checkpoint, where there is any."""
    if known is not None:
        known.save(folder / _FILE)


def kept(folder: Path) -> Familiarity | None:
    """Return what ``keep`` wrote."""
    path = folder / _FILE
    return Familiarity.load(path) if path.exists() else None


@dataclass(frozen=True, eq=False)
class Learned:
    """What was learnt; ``alarms``: training questions (n,) that are beyond the limit of what never saw them."""

    familiarity: Familiarity
    alarms: NDArray[np.bool_]


def learn_familiarity(
    texts: Sequence[str] | None,
    hidden: Floats | None,
    *,
    least_texts: int = 1,
    false_alarms: float = FALSE_ALARMS,
    seed: int = 0,
) -> Learned | None:
    """Learn what training queries look like: their texts, hidden states (n, size), or both.

    ``least_texts``: how many texts a word must stand in for the style to know it. ``None`` where there are too few
    queries to tell what is unusual.
    """
    words = None if texts is None else Words.of(texts, least_texts=least_texts)
    count = words.texts if words is not None else 0 if hidden is None else len(hidden)
    if count < LEAST_QUESTIONS:
        return None
    fold = np.random.default_rng(seed).permutation(count) % _FOLDS
    held: dict[str, NDArray[np.float64]] = {}
    for at in range(_FOLDS):
        rest, own = np.flatnonzero(fold != at), np.flatnonzero(fold == at)
        if words is not None:
            _, distance = _of_texts(words.part(rest), seed)
            figures = TextStyle.of(words.part(rest)).figures(words.part(own))
            held.setdefault("text", np.zeros(count))[own] = distance.measure(figures)
        if hidden is not None:
            held.setdefault("states", np.zeros(count))[own] = _of_states(hidden[rest], seed).measure(hidden[own])
    units = {name: _unit(found) for name, found in held.items()}
    distances = np.max([held[name] / units[name] for name in held], axis=0)
    limit = _limit(distances, false_alarms)
    style, text = (None, None) if words is None else _of_texts(words, seed)
    states = None if hidden is None else _of_states(hidden, seed)
    known = Familiarity(
        style,
        None if text is None else _in_units(text, units["text"]),
        None if states is None else _in_units(states, units["states"]),
        limit,
        _alarms_stated(false_alarms, count),
    )
    return Learned(known, distances > limit)


def familiarity_of_states(hidden: Floats, held_out: Floats, *, seed: int = 0) -> Familiarity | None:
    """Learn states (n, size) of an encoder that was trained on the same questions; ``held_out``: (m, size) of others.

    ``None`` where there are too few of either to tell what is unusual.
    """
    if min(len(hidden), len(held_out)) < LEAST_QUESTIONS:
        return None
    distance = _of_states(hidden, seed)
    found = distance.measure(held_out)
    unit = _unit(found)
    alarms = _alarms_stated(FALSE_ALARMS, len(held_out))
    return Familiarity(None, None, _in_units(distance, unit), _limit(found / unit, FALSE_ALARMS), alarms)


def _unit(distances: NDArray[np.float64]) -> float:
    return max(float(distances.mean()), _LEAST_UNIT)


def _limit(distances: NDArray[np.float64], false_alarms: float) -> float:
    return max(1.0, float(np.quantile(distances, 1 - false_alarms)))


def _alarms_stated(false_alarms: float, count: int) -> float:
    return max(false_alarms, _LEAST_ALARMS / count)


def _of_texts(words: Words, seed: int) -> tuple[TextStyle, Distance]:
    return TextStyle.of(words), Distance.of(held_out_figures(words, _FOLDS, seed), seed, _LEAST_STYLE_SCALE)


def _of_states(hidden: Floats, seed: int) -> Distance:
    return Distance.of(hidden, seed, _LEAST_SCALE)


def _in_units(distance: Distance, unit: float) -> Distance:
    return Distance(distance.centre, distance.scale, distance.whiten, distance.centres, unit)


def _clusters(y: NDArray[np.float64], count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Centres (c, r) of k-means, and the cluster of each row (n,)."""
    centres = y[np.random.default_rng(seed).choice(len(y), count, replace=False)]
    nearest = np.zeros(len(y), np.int64)
    for _ in range(_ROUNDS):
        nearest = np.stack([((y - one) ** 2).sum(axis=1) for one in centres], axis=1).argmin(axis=1)
        for at in np.unique(nearest):
            centres[at] = y[nearest == at].mean(axis=0)
    return centres, nearest


def add_familiarity(build: GraphBuilder, tokens: str | None, states: str | None, known: Familiarity) -> str:
    """Add the distance of queries to a graph; returns its output's name: ``unfamiliarity`` (n, 1).

    ``tokens``: of the text, whose numbers the graph has; ``states``: the input of hidden states.
    """
    parts = []
    if tokens is not None and known.style is not None and known.text is not None:
        parts.append(_add_distance(build, add_style(build, tokens, known.style), known.text, "text"))
    if states is not None and known.states is not None:
        parts.append(_add_distance(build, states, known.states, "states"))
    return build.add("Max", parts, "unfamiliarity")


def _add_distance(build: GraphBuilder, vectors: str, distance: Distance, name: str) -> str:
    def add(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        return build.add(operator, inputs, f"{name}_{output}", **attributes)

    def constant(label: str, value: NDArray[Any] | float) -> str:
        return build.constant(f"{name}_{label}", np.asarray(value, np.float32))

    centred = add("Sub", [vectors, constant("distance_centre", distance.centre)], "distance_centred")
    scaled = add("Div", [centred, constant("distance_scale", distance.scale)], "distance_scaled")
    bounds = [constant("least", -FURTHEST), constant("most", FURTHEST)]
    white = add("MatMul", [add("Clip", [scaled, *bounds], "bounded"), constant("whiten", distance.whiten)], "white")
    middle = build.constant(f"{name}_middle", np.array([1], np.int64))
    row = add("Unsqueeze", [white, middle], "row")
    apart = add("Sub", [row, constant("centres", distance.centres)], "apart")
    last = build.constant(f"{name}_last", np.array([2], np.int64))
    squared = add("ReduceSumSquare", [apart, last], "squared", keepdims=0)
    least = add("ReduceMin", [squared, middle], "nearest", keepdims=1)
    return add("Div", [least, constant("unit", distance.unit)], "distance")
