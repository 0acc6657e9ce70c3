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
    most_unfamiliarity: float | None = None,
) -> Path:
    """Write a model whose curve is sigmoid(scale · sum of the hidden state).

    With ``curve="nan"`` it is NaN; with "rising", that sum counts more from window to window, so that a state of zeros
    gains nothing by thinking, and one of large numbers much. A state's sum of absolute values is how unfamiliar it is;
    the model abstains above ``most_unfamiliarity``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    value = np.nan if curve == "nan" else scale
    share = np.linspace(0, 1, WINDOWS) if curve == "rising" else np.ones(WINDOWS)
    weights = numpy_helper.from_array(np.tile(value * share, (size, 1)).astype(np.float32), "weights")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["hidden_state", "weights"], ["logits"]),
            helper.make_node("Sigmoid", ["logits"], ["curve"]),
            helper.make_node("ReduceL1", ["hidden_state", "last"], ["unfamiliarity"], keepdims=1),
        ],
        "hidden",
        [helper.make_tensor_value_info("hidden_state", TensorProto.FLOAT, ["n", size])],
        [
            helper.make_tensor_value_info("curve", TensorProto.FLOAT, ["n", WINDOWS]),
            helper.make_tensor_value_info("unfamiliarity", TensorProto.FLOAT, ["n", 1]),
        ],
        initializer=[weights, numpy_helper.from_array(np.array([1], np.int64), "last")],
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
            most_unfamiliarity=most_unfamiliarity, false_alarm_rate=None if most_unfamiliarity is None else 0.02,
        ),
    )  # fmt: skip
    return folder
