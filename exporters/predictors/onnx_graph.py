"""A small builder of ONNX graphs: nodes and constants by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_OPSETS = [("", 20), ("ai.onnx.ml", 4), ("com.microsoft", 1)]
_IR_VERSION = 9
_LARGE = 1024  # numbers; smaller constants stay as they are

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

    def add(self, operator: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        self._nodes.append(helper.make_node(operator, list(inputs), [output], domain=domain, **attributes))
        return output

    def model(self, outputs: Mapping[str, int | str], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
        """Return the model with these outputs and their numbers of columns: (n, columns) each."""
        graph = helper.make_graph(
            self._nodes,
            "predictor",
            self._inputs,
            [helper.make_tensor_value_info(name, kind, ["n", columns]) for name, columns in outputs.items()],
            initializer=list(self._constants.values()),
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS]
        name = "predictive-scheduling"
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name=name)

    def extend(self, model: onnx.ModelProto, outputs: Mapping[str, int | str]) -> onnx.ModelProto:
        """Return ``model`` with these nodes after its own, which they may read, and these outputs besides its own."""
        own = self.model(outputs).graph
        model.graph.node.extend(own.node)
        model.graph.initializer.extend(own.initializer)
        model.graph.output.extend(own.output)
        return model


def with_half_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store the model's large float32 constants in float16, cast back where they are used: half the size on disk.

    onnxruntime folds the casts when it loads the model, so that it computes in float32 as before. A model with a weight
    beyond float16's range would lose it; the parity check of the exporter would then refuse it.
    """
    casts = []
    for at, weight in enumerate(model.graph.initializer):
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims, dtype=np.int64) < _LARGE:
            continue
        name = weight.name
        value = numpy_helper.to_array(weight).astype(np.float16)
        model.graph.initializer[at].CopyFrom(numpy_helper.from_array(value, f"{name}_float16"))
        casts.append(helper.make_node("Cast", [f"{name}_float16"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """Return a CPU session of a model."""
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
