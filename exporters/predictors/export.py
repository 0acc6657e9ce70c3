"""Write a trained predictor as a model folder, and compare what is served with what was trained."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters.predictors.trained import Trained, manifest_of
from predictor_service.artifact import Manifest, write_manifest
from predictor_service.inputs.features import Query
from predictor_service.model import LoadedModel

WORST_PARITY = 0.05
PARITY_ROWS = 256


@dataclass(frozen=True)
class Parity:
    """Distance of the served curves from the trained ones over ``rows`` queries, in fractions of accuracy.

    ``megabytes``: size of the graph. ``unfamiliarity``: mean distance of the served unfamiliarity from the trained one,
    as a share of its limit; 0 where the predictor does not know it.
    """

    rows: int
    largest: float
    mean: float
    megabytes: float
    unfamiliarity: float = 0.0


def export(
    trained: Trained,
    folder: Path,
    texts: Sequence[str],
    hidden: NDArray[np.float32] | None,
    *,
    name: str,
    version: str,
    precision: str = "float16",
) -> tuple[Manifest, Parity]:
    """Write a model folder, load it as the predictor would, and compare it with ``trained`` on the given queries.

    The folder is touched only when that went well. Raises ArtifactError where the predictor could not serve it, and
    ValueError where the precision is not to be had or the served curves are not those that were trained.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        staged = Path(scratch)
        trained.write(staged, precision)
        manifest = write_manifest(staged, manifest_of(trained, name, version))
        found = parity(trained, staged, texts, hidden)
        if not found.mean <= WORST_PARITY:  # a weight beyond float16 makes curves that are no numbers
            raise ValueError(
                f"--precision: in {precision} the served curves are off by {found.mean:.3f} on average, more than "
                f"{WORST_PARITY}; use float16 or float32"
            )
        if not found.unfamiliarity <= WORST_PARITY:
            raise ValueError(
                f"--precision: in {precision} unfamiliarity is off by {found.unfamiliarity:.3f} of its limit "
                f"on average, more than {WORST_PARITY}; use float32"
            )
        folder.mkdir(exist_ok=True)
        for path in sorted(staged.iterdir(), key=lambda path: path.name == "manifest.json"):
            path.replace(folder / path.name)
    return manifest, found


def parity(trained: Trained, folder: Path, texts: Sequence[str], hidden: NDArray[np.float32] | None) -> Parity:
    """Compare a model folder with the predictor that it was made from, on the first few of the given queries."""
    takes_hidden = trained.interface.hidden_size > 0
    if takes_hidden and hidden is None:
        raise ValueError(f"--hidden-states: {trained.interface.kind} needs them")
    rows = min(PARITY_ROWS, len(texts))
    states = hidden[:rows] if hidden is not None and takes_hidden else None
    queries = [Query(text, None if states is None else states[row]) for row, text in enumerate(texts[:rows])]
    model = LoadedModel(folder)
    served = model.run(queries)
    error = np.abs(served.curves - trained.reference(texts[:rows], states))
    size = (folder / "model.onnx").stat().st_size / 1e6
    distance = trained.unfamiliarity(texts[:rows], states)
    strange = _share_off(served.unfamiliarity, distance, model.manifest.most_unfamiliarity)
    return Parity(rows, float(error.max()), float(error.mean()), size, strange)


def _share_off(served: NDArray[np.float32] | None, trained: NDArray[np.float64] | None, limit: float | None) -> float:
    """How far the served unfamiliarity lies from the trained one, as a share of its limit."""
    if served is None or trained is None or limit is None:
        return 0.0
    return float(np.abs(served - trained).mean() / limit)
