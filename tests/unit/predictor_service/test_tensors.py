"""Tensors of the Open Inference Protocol: as numbers or raw, read alike, and refused by their place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictive_scheduling.open_inference.v2 import open_inference_pb2 as pb
from predictor_service.admission import RefusedQueryError
from predictor_service.tensors import read_queries, write_outputs

Tensor = pb.ModelInferRequest.InferInputTensor


def texts(*items, shape=None, **fields):
    contents = pb.InferTensorContents(bytes_contents=[item.encode() for item in items])
    usual = {"name": "text", "datatype": "BYTES", "shape": shape or [len(items)], "contents": contents}
    return Tensor(**usual | fields)


def states(rows, shape=None, **fields):
    contents = pb.InferTensorContents(fp32_contents=[value for row in rows for value in row])
    usual = {"name": "hidden_state", "datatype": "FP32", "shape": shape or [len(rows), len(rows[0])]}
    return Tensor(**usual | {"contents": contents} | fields)


def raw(items):
    return b"".join(len(item.encode()).to_bytes(4, "little") + item.encode() for item in items)


def bare(tensor):
    """The same without contents: those are raw."""
    return Tensor(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


@given(st.lists(st.tuples(st.text(max_size=9), st.lists(st.floats(width=32), min_size=3, max_size=3)), min_size=1))
def test_raw_tensors_are_read_as_numbers_are(rows):
    text, state = texts(*(text for text, _ in rows)), states([values for _, values in rows])
    bytes_of_states = np.array([values for _, values in rows], "<f4").tobytes()
    plain = read_queries(pb.ModelInferRequest(inputs=[text, state]))
    packed = read_queries(
        pb.ModelInferRequest(
            inputs=[bare(text), bare(state)], raw_input_contents=[raw(text for text, _ in rows), bytes_of_states]
        )
    )
    assert [query.text for query in plain] == [query.text for query in packed] == [text for text, _ in rows]
    for one, other in zip(plain, packed, strict=True):
        assert one.hidden_state.tobytes() == other.hidden_state.tobytes()


def test_either_input_will_do_and_a_text_may_be_a_row():
    (query,) = read_queries(pb.ModelInferRequest(inputs=[texts("a", shape=[1, 1])]))
    assert (query.text, query.hidden_state) == ("a", None)
    (query,) = read_queries(pb.ModelInferRequest(inputs=[states([[1.0, 2.0]])]))
    assert (query.text, query.hidden_state.tolist()) == ("", [1.0, 2.0])


NOT_UTF8 = Tensor(name="text", datatype="BYTES", shape=[1], contents=pb.InferTensorContents(bytes_contents=[b"\xff"]))


@pytest.mark.parametrize(
    ("inputs", "contents", "field"),
    [
        ([], [], "inputs"),
        ([texts()], [], "inputs"),
        ([texts("a", "b"), states([[1.0]])], [], "inputs"),
        ([texts("a", name="prompt")], [], "inputs[0].name"),
        ([states([[1.0]]), texts("a", datatype="FP32")], [], "inputs[1].datatype"),
        ([texts("a", shape=[2])], [], "inputs[0].shape"),
        ([states([[1.0, 2.0]], shape=[2])], [], "inputs[0].shape"),
        ([states([[1.0, 2.0]], shape=[1, 3])], [], "inputs[0].shape"),
        ([states([[1.0, 2.0]], shape=[-1, -2])], [], "inputs[0].shape"),
        ([NOT_UTF8], [], "inputs[0].contents"),
        ([texts("a"), texts("b")], [], "inputs[1].name"),
        ([states([[1.0]]), states([[1.0]])], [], "inputs[1].name"),
        ([texts("a", shape=[1, 1, 1])], [], "inputs[0].shape"),
        ([texts(*["a"] * 4097)], [], "inputs"),
        ([bare(texts(*["a"] * 5000))], [raw("a" * 5000)], "inputs"),
        ([states([[1.0]] * 4097)], [], "inputs"),
        ([bare(texts("a"))], [raw("a"), b""], "raw_input_contents"),
        ([bare(texts("a"))], [raw("a")[:-1]], "raw_input_contents[0]"),
        ([bare(texts("a"))], [b"\x01\x00"], "raw_input_contents[0]"),
        ([bare(states([[1.0]]))], [b"\x00" * 5], "raw_input_contents[0]"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_place(inputs, contents, field):
    with pytest.raises(RefusedQueryError) as caught:
        read_queries(pb.ModelInferRequest(inputs=inputs, raw_input_contents=contents))
    assert caught.value.field_name == field
    assert not caught.value.precondition


OUTPUTS = {"curves": np.array([[0.25, 0.5]], np.float32), "spread": np.array([[0.125]], np.float32)}


@pytest.mark.parametrize(("wanted", "names"), [([], ["curves", "spread"]), (["spread"], ["spread"])])
def test_outputs_are_written_as_numbers_or_raw(wanted, names):
    plain, packed = pb.ModelInferResponse(), pb.ModelInferResponse()
    write_outputs(plain, OUTPUTS, wanted, raw=False)
    write_outputs(packed, OUTPUTS, wanted, raw=True)
    for response in (plain, packed):
        assert [(one.name, one.datatype, list(one.shape)) for one in response.outputs] == [
            (name, "FP32", list(OUTPUTS[name].shape)) for name in names
        ]
    values = [OUTPUTS[name].ravel().tolist() for name in names]
    assert [list(one.contents.fp32_contents) for one in plain.outputs] == values
    assert list(packed.raw_output_contents) == [OUTPUTS[name].tobytes() for name in names]


def test_an_output_is_written_once():
    response = pb.ModelInferResponse()
    with pytest.raises(RefusedQueryError, match=r"outputs\[2\]\.name: spread is wanted twice"):
        write_outputs(response, OUTPUTS, ["spread", "curves", "spread"], raw=True)
    assert not response.outputs


def test_an_output_that_there_is_not_is_refused_and_nothing_written():
    response = pb.ModelInferResponse()
    with pytest.raises(RefusedQueryError, match=r"outputs\[1\]\.name: 'nope' is none of curves, spread"):
        write_outputs(response, OUTPUTS, ["curves", "nope"], raw=False)
    assert not response.outputs
