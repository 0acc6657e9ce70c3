"""The predictor's gRPC API: messages in, messages out; every status it returns is documented in the proto."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
import numpy as np
from opentelemetry import trace

from predictive_scheduling import semconv
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from predictive_scheduling.predictor.v1 import predictor_pb2_grpc
from predictive_scheduling.rpc_errors import abort_invalid, abort_retry, require_valid
from predictor_service.admission import RefusedQueryError, admit
from predictor_service.batcher import Batcher, Predicted, QueueFullError
from predictor_service.features import Query

_Context = grpc.aio.ServicerContext[Any, Any]
_KINDS = {name.removeprefix("MODEL_KIND_").lower(): value for name, value in pb.ModelKind.items()}


class PredictorServicer(predictor_pb2_grpc.PredictorServiceServicer):
    """Serves the models of ``batchers`` (by name); ``default`` answers requests that name none."""

    def __init__(self, batchers: Mapping[str, Batcher], default: str) -> None:
        """Serve; the default must be one of the models."""
        self._batchers = batchers
        self._default = default

    async def Predict(self, request: pb.PredictRequest, context: _Context) -> pb.PredictResponse:
        """Predict every query's curve."""
        await require_valid(context, request)
        batcher = await self._batcher(request.model, context)
        manifest = batcher.model.manifest
        try:
            queries = [
                admit(manifest, at, _query(query), query.hidden_state.layer) for at, query in enumerate(request.queries)
            ]
        except RefusedQueryError as refused:
            invalid = grpc.StatusCode.FAILED_PRECONDITION if refused.precondition else grpc.StatusCode.INVALID_ARGUMENT
            await abort_invalid(context, [(refused.field_name, refused.description)], invalid)
        try:
            predicted = await batcher.predict(queries)
        except QueueFullError as full:
            await abort_retry(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(full), retry_seconds=0.1)
        _annotate(predicted, len(queries), f"{manifest.name}@{manifest.version}")
        return _response(batcher, predicted)

    async def GetModel(self, request: pb.GetModelRequest, context: _Context) -> pb.GetModelResponse:
        """Describe one model."""
        await require_valid(context, request)
        return pb.GetModelResponse(model=_model(await self._batcher(request.model, context)))

    async def ListModels(self, request: pb.ListModelsRequest, context: _Context) -> pb.ListModelsResponse:
        """Describe every model, the default first."""
        names = sorted(self._batchers, key=lambda name: (name != self._default, name))
        return pb.ListModelsResponse(models=[_model(self._batchers[name]) for name in names])

    async def _batcher(self, name: str, context: _Context) -> Batcher:
        batcher = self._batchers.get(name or self._default)
        if batcher is None:
            wrong = f"{name!r} is not served; served are {', '.join(sorted(self._batchers))}"
            await abort_invalid(context, [("model", wrong)], grpc.StatusCode.FAILED_PRECONDITION)
        return batcher


def _query(query: pb.Query) -> Query:
    state = np.array(query.hidden_state.values, dtype=np.float32) if query.HasField("hidden_state") else None
    return Query(query.text, state)


def _response(batcher: Batcher, predicted: Predicted) -> pb.PredictResponse:
    manifest, result = batcher.model.manifest, predicted.result
    response = pb.PredictResponse(
        model=manifest.name,
        version=manifest.version,
        budget_window_tokens=manifest.budget_window_tokens,
        queue_seconds=predicted.queue_seconds,
        tokenize_seconds=result.tokenize_seconds,
        inference_seconds=result.inference_seconds,
    )
    for row, curve in enumerate(result.curves):
        usable = bool(np.isfinite(curve).all())
        prediction = response.predictions.add(
            status=pb.PREDICTION_STATUS_OK if usable else pb.PREDICTION_STATUS_ABSTAIN,
            curve=curve if usable else manifest.mean_curve,
            uncertainty=manifest.uncertainty,
        )
        if result.difficulty is not None and usable:
            easy, medium, hard = result.difficulty[row]
            prediction.difficulty.CopyFrom(pb.DifficultyProbabilities(easy=easy, medium=medium, hard=hard))
    return response


def _model(batcher: Batcher) -> pb.Model:
    manifest = batcher.model.manifest
    return pb.Model(
        name=manifest.name,
        version=manifest.version,
        kind=_KINDS[manifest.kind],
        budget_window_tokens=manifest.budget_window_tokens,
        windows=manifest.windows,
        takes_text=manifest.takes_text,
        hidden_size=manifest.hidden_size,
        layer=manifest.layer,
        mean_curve=manifest.mean_curve,
        reliability=manifest.reliability,
        max_text_bytes=manifest.max_text_bytes,
        max_batch_size=batcher.max_batch_size,
    )


def _annotate(predicted: Predicted, size: int, predictor: str) -> None:
    span = trace.get_current_span()
    span.set_attribute(semconv.PREDICTOR, predictor)
    span.set_attribute(semconv.BATCH_SIZE, size)
    span.set_attribute(semconv.QUEUE_DURATION, predicted.queue_seconds)
    span.set_attribute(semconv.TOKENIZE_DURATION, predicted.result.tokenize_seconds)
    span.set_attribute(semconv.INFERENCE_DURATION, predicted.result.inference_seconds)
