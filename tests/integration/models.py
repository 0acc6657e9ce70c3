"""Small model folders that a test can make without training anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from predictor_service.artifact import Manifest, write_manifest

WINDOWS = 16


def hidden_state_model(
    folder: Path,
    *,
    size: int = 4,
    layer: int = 3,
    name: str = "hidden",
    curve: str = "sum",
    version: str = "7",
    scale: float = 1.0,
) -> Path:
    """Write a model whose curve is sigmoid(scale · sum of the hidden state).

    With ``curve="nan"`` it is NaN; with "rising", that sum counts more from window to window, so that a state of zeros
    gains nothing by thinking, and one of large numbers much.
    """
    folder.mkdir(parents=True, exist_ok=True)
    value = np.nan if curve == "nan" else scale
    share = np.linspace(0, 1, WINDOWS) if curve == "rising" else np.ones(WINDOWS)
    weights = numpy_helper.from_array(np.tile(value * share, (size, 1)).astype(np.float32), "weights")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["hidden_state", "weights"], ["logits"]),
            helper.make_node("Sigmoid", ["logits"], ["curve"]),
        ],
        "hidden",
        [helper.make_tensor_value_info("hidden_state", TensorProto.FLOAT, ["n", size])],
        [helper.make_tensor_value_info("curve", TensorProto.FLOAT, ["n", WINDOWS])],
        initializer=[weights],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), folder / "model.onnx"
    )
    write_manifest(
        folder,
        Manifest(
            name=name, version=version, kind="hidden_state_mlp", budget_window_tokens=16, windows=WINDOWS,
            takes_text=False, hidden_size=size, layer=layer, max_text_bytes=0, training_data={}, validation={},
            reliability=0.5, mean_curve=[0.25] * WINDOWS, uncertainty=[0.1] * WINDOWS,
        ),
    )  # fmt: skip
    return folder
