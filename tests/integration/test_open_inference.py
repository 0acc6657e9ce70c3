"""The predictor by the Open Inference Protocol, as Triton's own client speaks it."""

import grpc.aio
import numpy as np
import onnx
import pytest
import tritonclient.grpc.aio as triton
from onnx import numpy_helper
from tritonclient.utils import InferenceServerException

from predictive_scheduling import AsyncPredictorClient
from predictive_scheduling.open_inference.v2 import open_inference_pb2 as pb
from predictor_service.settings import SHIPPED_MODELS
from tests.integration.models import hidden_state_model
from tests.integration.running import predictor

PROMPTS = ["What is 1 + 2?", "What is 3 + 4 + 5 + 6 + 7 + 8 + 9?"]


def texts(prompts=PROMPTS, shape=None):
    tensor = triton.InferInput("text", shape or [len(prompts)], "BYTES")
    return tensor.set_data_from_numpy(
        np.array([prompt.encode() for prompt in prompts], dtype=object).reshape(shape or [-1])
    )


def states(values):
    values = np.asarray(values, dtype=np.float32)
    return triton.InferInput("hidden_state", list(values.shape), "FP32").set_data_from_numpy(values)


def usual_state(folder):
    """The mean hidden state of a model's training, as its graph has it."""
    known = {one.name: one for one in onnx.load(folder / "model.onnx").graph.initializer}
    name = next(name for name in known if name.startswith("states_distance_centre"))
    return numpy_helper.to_array(known[name]).astype(np.float32)


@pytest.mark.parametrize("shape", [[2], [2, 1]])
async def test_texts_get_the_curves_that_our_own_client_gets(shape):
    async with predictor() as address, triton.InferenceServerClient(address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("demo-text")
        assert not await client.is_model_ready("nobody")
        meta = await client.get_model_metadata("demo-text")
        assert [(one.name, one.datatype, list(one.shape)) for one in meta.inputs] == [("text", "BYTES", [-1])]
        assert ("curve", "FP32", [-1, 16]) in [(one.name, one.datatype, list(one.shape)) for one in meta.outputs]
        result = await client.infer("demo-text", [texts(shape=shape)], request_id="mine")
        async with AsyncPredictorClient(address) as own:
            expected = await own.predict(PROMPTS)
    curves = result.as_numpy("curve")
    assert curves.shape == (2, 16)
    np.testing.assert_allclose(curves, [list(one.curve) for one in expected.predictions], atol=1e-6)
    np.testing.assert_allclose(result.as_numpy("uncertainty")[1], expected.predictions[1].uncertainty, atol=1e-6)
    response = result.get_response()
    assert (response.id, response.model_name) == ("mine", "demo-text")
    assert response.parameters["budget_window_tokens"].int64_param == 16


async def test_hidden_states_and_wanted_outputs(tmp_path):
    hidden_state_model(tmp_path / "hidden")
    async with predictor(tmp_path, default_model="hidden") as address, triton.InferenceServerClient(address) as client:
        outputs = [triton.InferRequestedOutput("curve")]
        result = await client.infer("hidden", [states([[0, 0, 0, 0], [1, 1, 1, 1]])], outputs=outputs)
        assert (await client.get_server_metadata()).name
    np.testing.assert_allclose(result.as_numpy("curve")[:, 0], [0.5, 1 / (1 + np.exp(-4))], atol=1e-6)
    assert result.as_numpy("uncertainty") is None


async def test_difficulty_is_an_output_of_models_that_classify():
    async with predictor() as address, triton.InferenceServerClient(address) as client:
        name = "gsm8k-r1-1.5b-hidden-difficulty"
        meta = await client.get_model_metadata(name)
        usual = usual_state(SHIPPED_MODELS / name)
        result = await client.infer(name, [states([usual, usual * 0, usual])])
    assert {"difficulty", "unfamiliarity"} <= {one.name for one in meta.outputs}
    np.testing.assert_allclose(result.as_numpy("difficulty").sum(axis=1)[[0, 2]], 1.0, atol=1e-4)
    near, far, again = result.as_numpy("unfamiliarity")[:, 0]
    assert near == again < far
    assert np.isnan(result.as_numpy("difficulty")[1]).all()  # unlike its training, so it abstains
    assert np.isnan(result.as_numpy("curve")[1]).all()


@pytest.mark.parametrize(
    ("model", "version", "inputs", "outputs", "named"),
    [
        ("nobody", "", [texts()], None, "model"),
        ("demo-text", "99", [texts()], None, "model_version"),
        ("demo-text", "", [states([[1.0, 2.0]])], None, "queries[0].text"),
        ("demo-text", "", [texts(["x" * 40_000])], None, "queries[0].text"),
        ("demo-text", "", [triton.InferInput("prompt", [1], "FP32").set_data_from_numpy(np.ones(1, np.float32))], None,
         "inputs[0].name"),
        ("demo-text", "", [triton.InferInput("text", [1], "FP32").set_data_from_numpy(np.ones(1, np.float32))], None,
         "inputs[0].datatype"),
        ("demo-text", "", [texts()], [triton.InferRequestedOutput("logits")], "outputs[0].name"),
    ],
)  # fmt: skip
async def test_what_cannot_be_served_is_named(model, version, inputs, outputs, named):
    async with predictor() as address, triton.InferenceServerClient(address) as client:
        with pytest.raises(InferenceServerException) as caught:
            await client.infer(model, inputs, model_version=version, outputs=outputs)
    assert str(caught.value.message()).startswith(named)


def tensor(name="text", datatype="BYTES", shape=(1,), **contents):
    return pb.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents)
    )


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (pb.ModelInferRequest(), "inputs"),
        (pb.ModelInferRequest(inputs=[tensor("x" * 20_000)]), "inputs[0].name"),
        (pb.ModelInferRequest(inputs=[tensor(bytes_contents=[b"\xff"])]), "inputs[0].contents"),
        (pb.ModelInferRequest(inputs=[tensor(shape=(2,), bytes_contents=[b"a"])]), "inputs[0].shape"),
        (pb.ModelInferRequest(inputs=[tensor()], raw_input_contents=[b"\x05\0\0\0ab"]), "raw_input_contents[0]"),
        (pb.ModelInferRequest(inputs=[tensor()], raw_input_contents=[b"ab"]), "raw_input_contents[0]"),
        (pb.ModelInferRequest(inputs=[tensor()], raw_input_contents=[b"", b""]), "raw_input_contents"),
        (
            pb.ModelInferRequest(inputs=[tensor("hidden_state", "FP32", (1, 2))], raw_input_contents=[b"abc"]),
            "raw_input_contents[0]",
        ),
        (
            pb.ModelInferRequest(inputs=[tensor("hidden_state", "FP32", (-1, -2), fp32_contents=[1.0, 2.0])]),
            "inputs[0].shape",
        ),
    ],
)
async def test_tensors_that_do_not_fit_are_named(request_, named):
    async with predictor() as address, grpc.aio.insecure_channel(address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer(request_)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith(named)
        plain = await infer(pb.ModelInferRequest(inputs=[tensor(bytes_contents=[b"What is 1 + 1?"])]))
    assert len(plain.outputs[0].contents.fp32_contents) == 16  # numbers in, numbers out
