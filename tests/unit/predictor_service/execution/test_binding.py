"""Graphs over kept buffers give what they give without, and make no buffer twice; here in the CPU's memory."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from predictor_service.execution.binding import BoundGraph
from predictor_service.model import LoadedModel
from predictor_service.settings import SHIPPED_MODELS

CPU = "CPUExecutionProvider"
WIDTH = 3


def session_of(graph):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return ort.InferenceSession(model.SerializeToString(), providers=[CPU])


@pytest.fixture(scope="module")
def encoder():
    """A graph over tokens: the masked sum of the ids times 1, 2, 3, and its double as a second output."""
    tokens = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in ("curve", "used_tokens")
    ]
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["masked"]),
        helper.make_node("Cast", ["masked"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers", "last"], ["total"], keepdims=1),
        helper.make_node("Mul", ["total", "weights"], ["curve"]),
        helper.make_node("Add", ["curve", "curve"], ["used_tokens"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array([1], np.int64), "last"),
        onnx.numpy_helper.from_array(np.arange(1, WIDTH + 1, dtype=np.float32), "weights"),
    ]
    return session_of(helper.make_graph(nodes, "encoder", tokens, outputs, initializer=constants))


def tokens(rows, length, seed):
    draw = np.random.default_rng(seed)
    return {
        "input_ids": draw.integers(0, 999, (rows, length)),
        "attention_mask": draw.integers(0, 2, (rows, length)),
    }


@settings(max_examples=30)
@given(batches=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 40), st.integers(0, 99)), min_size=1, max_size=6))
def test_any_row_of_batches_gives_what_it_gives_unbound(encoder, batches):
    bound = BoundGraph(encoder, {"curve": WIDTH, "used_tokens": WIDTH}, "cpu")
    for rows, length, seed in batches:
        inputs = tokens(rows, length, seed)
        found = bound.run(inputs, rows)
        for expected, values in zip(encoder.run(["curve", "used_tokens"], inputs), found, strict=True):
            np.testing.assert_array_equal(values, expected)


def test_results_outlive_the_next_batch(encoder):
    bound = BoundGraph(encoder, {"curve": WIDTH}, "cpu")
    (first,) = bound.run(tokens(2, 5, 1), 2)
    before = first.copy()
    bound.run(tokens(2, 5, 2), 2)
    np.testing.assert_array_equal(first, before)


def test_no_buffer_is_made_for_a_size_that_was_seen(encoder, monkeypatch):
    real, made = ort.OrtValue.ortvalue_from_shape_and_type, []

    def counting(shape, *rest):
        made.append(shape)
        return real(shape, *rest)

    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_shape_and_type", counting)
    bound = BoundGraph(encoder, {"curve": WIDTH}, "cpu")
    bound.run(tokens(8, 16, 0), 8)
    assert made == [[128], [128], [32]]
    for rows, length in ((8, 16), (7, 16), (6, 13), (8, 15)):
        bound.run(tokens(rows, length, rows), rows)
    assert len(made) == 3
    bound.run(tokens(9, 16, 0), 9)
    assert made[3:] == [[256], [256]]


def test_an_output_that_has_no_buffers_is_refused():
    text = helper.make_tensor_value_info("curve", TensorProto.STRING, ["n", WIDTH])
    given = helper.make_tensor_value_info("given", TensorProto.STRING, ["n", WIDTH])
    session = session_of(helper.make_graph([helper.make_node("Identity", ["given"], ["curve"])], "g", [given], [text]))
    with pytest.raises(KeyError, match="string"):
        BoundGraph(session, {"curve": WIDTH}, "cpu")


def test_the_shipped_hidden_state_model_predicts_the_same_bound():
    model = LoadedModel(SHIPPED_MODELS / "gsm8k-r1-1.5b-hidden")
    session = ort.InferenceSession(str(SHIPPED_MODELS / "gsm8k-r1-1.5b-hidden/model.onnx"), providers=[CPU])
    bound = BoundGraph(session, {"curve": model.manifest.windows}, "cpu")
    for rows in (1, 16, 64):
        states = np.random.default_rng(rows).normal(size=(rows, model.manifest.hidden_size)).astype(np.float32)
        (found,) = bound.run({"hidden_state": states}, rows)
        np.testing.assert_allclose(found, session.run(["curve"], {"hidden_state": states})[0], atol=1e-6)
