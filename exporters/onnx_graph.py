"""A small builder of ONNX graphs: nodes and constants by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_OPSETS = [("", 20), ("ai.onnx.ml", 4), ("com.microsoft", 1)]
_IR_VERSION = 9

TEXT = helper.make_tensor_value_info("text", TensorProto.STRING, ["n"])


def hidden_state_input(size: int) -> onnx.ValueInfoProto:
    """Return the input of hidden states: (n, ``size``) float32."""
    return helper.make_tensor_value_info("hidden_state", TensorProto.FLOAT, ["n", size])


class GraphBuilder:
    """Collects the nodes and constants of a graph with the given inputs."""

    def __init__(self, inputs: Sequence[onnx.ValueInfoProto]) -> None:
        """Start an empty graph."""
        self._inputs = list(inputs)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant; returns its name. Raises ValueError for a name that is taken."""
        if name in self._constants:
            raise ValueError(f"{name}: there is a constant of this name already")
        self._constants[name] = numpy_helper.from_array(value, name)
        return name

    def weight(self, name: str, value: NDArray[np.float32], *, half: bool) -> str:
        """Add a float32 constant, stored in float16 with ``half``; returns its name."""
        if not half:
            return self.constant(name, value)
        stored = self.constant(f"{name}_float16", value.astype(np.float16))
        return self.add("Cast", [stored], name, to=TensorProto.FLOAT)

    def add(self, operator: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        self._nodes.append(helper.make_node(operator, list(inputs), [output], domain=domain, **attributes))
        return output

    def model(self, output: str, columns: int | str, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
        """Return the model whose output is ``output`` (n, ``columns``)."""
        graph = helper.make_graph(
            self._nodes,
            "predictor",
            self._inputs,
            [helper.make_tensor_value_info(output, kind, ["n", columns])],
            initializer=list(self._constants.values()),
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS]
        name = "predictive-scheduling"
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name=name)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """Return a CPU session of a model."""
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
