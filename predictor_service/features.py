"""From queries to the inputs of an ONNX graph: everything that depends on the text itself lies inside the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor_service.artifact import Manifest


@dataclass(frozen=True, eq=False)
class Query:
    """One query: text, a hidden state (float32 vector), or both."""

    text: str = ""
    hidden_state: NDArray[np.float32] | None = None


def graph_inputs(manifest: Manifest, queries: Sequence[Query]) -> dict[str, NDArray[Any]]:
    """Return the inputs of checked queries: ``text`` (n,) strings, ``hidden_state`` (n, hidden_size) float32."""
    inputs: dict[str, NDArray[Any]] = {}
    if manifest.takes_text:
        inputs["text"] = np.array([query.text for query in queries], dtype=object)
    if manifest.hidden_size:
        inputs["hidden_state"] = np.stack([query.hidden_state for query in queries])  # type: ignore[misc]
    return inputs
