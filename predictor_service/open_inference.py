"""The predictor by the Open Inference Protocol v2, so that KServe's, Triton's and MLServer's clients reach it.

Status codes are those of ``PredictorService``. Inputs: ``text`` BYTES [n] or ``hidden_state`` FP32 [n, size], as the
model takes them. Outputs: ``curve`` FP32 [n, windows], ``uncertainty`` of the same shape where the model knows it,
``difficulty`` FP32 [n, 3] where it classifies, ``used_tokens`` FP32 [n, windows] where it predicts use,
``unfamiliarity`` FP32 [n, 1] where it knows how far a query lies from its training; curve, difficulty and use are NaN
where the model abstains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from predictive_scheduling.open_inference.v2 import open_inference_pb2 as pb
from predictive_scheduling.version import VERSION
from predictor_service.abstention import Abstention
from predictor_service.admission import RefusedQueryError
from predictor_service.artifact import Manifest
from predictor_service.batching.batcher import QueueFullError
from predictor_service.model import ModelFailedError
from predictor_service.predictions import Answer, Predictions
from predictor_service.servicer import abort
from predictor_service.tensors import read_queries, write_outputs

SERVICE = "inference.GRPCInferenceService"

_Context = grpc.aio.ServicerContext[Any, Any]
_Tensor = pb.ModelMetadataResponse.TensorMetadata


class OpenInferenceServicer:
    """Answers the Open Inference Protocol v2 from ``predictions``. ``draining`` says whether new work is refused."""

    def __init__(self, predictions: Predictions, draining: Callable[[], bool] = lambda: False) -> None:
        """Answer from the same models and queues as our own API does."""
        self._predictions, self._draining = predictions, draining

    def register(self, server: grpc.aio.Server) -> None:
        """Add the methods to a server, under the protocol's names."""
        methods: dict[str, tuple[Any, Any]] = {
            "ServerLive": (self._server_live, pb.ServerLiveRequest),
            "ServerReady": (self._server_ready, pb.ServerReadyRequest),
            "ServerMetadata": (self._server_metadata, pb.ServerMetadataRequest),
            "ModelReady": (self._model_ready, pb.ModelReadyRequest),
            "ModelMetadata": (self._model_metadata, pb.ModelMetadataRequest),
            "ModelInfer": (self._model_infer, pb.ModelInferRequest),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                method, request_deserializer=request.FromString, response_serializer=_serialize
            )
            for name, (method, request) in methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def _server_live(self, request: pb.ServerLiveRequest, context: _Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, request: pb.ServerReadyRequest, context: _Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=not self._draining())

    async def _server_metadata(self, request: pb.ServerMetadataRequest, context: _Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="predictive-scheduling predictor", version=VERSION)

    async def _model_ready(self, request: pb.ModelReadyRequest, context: _Context) -> pb.ModelReadyResponse:
        try:
            self._manifest(request.name, request.version)
        except RefusedQueryError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._draining())

    async def _model_metadata(self, request: pb.ModelMetadataRequest, context: _Context) -> pb.ModelMetadataResponse:
        try:
            manifest = self._manifest(request.name, request.version)
        except RefusedQueryError as error:
            await abort(context, error)
        inputs = [_Tensor(name="text", datatype="BYTES", shape=[-1])] if manifest.takes_text else []
        if manifest.hidden_size:
            inputs.append(_Tensor(name="hidden_state", datatype="FP32", shape=[-1, manifest.hidden_size]))
        shapes = {"curve": manifest.windows}
        if manifest.uncertainty:
            shapes["uncertainty"] = manifest.windows
        if manifest.class_curves:
            shapes["difficulty"] = 3
        if manifest.mean_used_tokens:
            shapes["used_tokens"] = manifest.windows
        if manifest.most_unfamiliarity is not None:
            shapes["unfamiliarity"] = 1
        return pb.ModelMetadataResponse(
            name=manifest.name,
            versions=[manifest.version],
            platform="onnxruntime_onnx",
            inputs=inputs,
            outputs=[_Tensor(name=name, datatype="FP32", shape=[-1, size]) for name, size in shapes.items()],
        )

    async def _model_infer(self, request: pb.ModelInferRequest, context: _Context) -> pb.ModelInferResponse:
        try:
            manifest = self._manifest(request.model_name, request.model_version)
            queries = read_queries(request)
            answer = await self._predictions.predict(manifest.name, queries, [0] * len(queries))
            response = pb.ModelInferResponse(
                model_name=answer.manifest.name, model_version=answer.manifest.version, id=request.id
            )
            wanted = [output.name for output in request.outputs]
            write_outputs(response, _tensors(answer), wanted, raw=bool(request.raw_input_contents))
        except (RefusedQueryError, QueueFullError, ModelFailedError) as error:
            await abort(context, error)
        response.parameters["budget_window_tokens"].int64_param = answer.manifest.budget_window_tokens
        response.parameters["budget_points"].string_param = ",".join(map(str, answer.manifest.budget_points))
        response.parameters["canary"].bool_param = answer.canary
        return response

    def _manifest(self, name: str, version: str) -> Manifest:
        """The manifest of a model. Raises RefusedQueryError for a name or a version that is not served."""
        manifest = self._predictions.batcher(name).model.manifest
        if version and version != manifest.version:
            wrong = f"{version!r} is not served; served is {manifest.version!r}"
            raise RefusedQueryError("model_version", wrong, precondition=True)
        return manifest


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _tensors(answer: Answer) -> dict[str, NDArray[np.float32]]:
    result = answer.predicted.result
    abstained = result.abstained[:, None] != Abstention.NONE
    nothing = np.float32(np.nan)
    tensors = {"curve": np.where(abstained, nothing, result.curves)}
    if answer.manifest.uncertainty:
        rows = np.array(answer.manifest.uncertainty, dtype=np.float32)
        tensors["uncertainty"] = np.broadcast_to(rows, result.curves.shape)
    if result.difficulty is not None:
        tensors["difficulty"] = np.where(abstained, nothing, result.difficulty)
    if result.used is not None:
        tensors["used_tokens"] = np.where(abstained, nothing, result.used)
    if result.unfamiliarity is not None:
        tensors["unfamiliarity"] = result.unfamiliarity[:, None]
    return tensors
