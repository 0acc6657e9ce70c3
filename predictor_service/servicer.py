"""The predictor's gRPC API: messages in, messages out; every status it returns is documented in the proto."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
import grpc.aio

from predictive_scheduling.interceptors import StreamedCalls
from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from predictive_scheduling.predictor.v1 import predictor_pb2_grpc
from predictive_scheduling.rpc_errors import abort_invalid, abort_retry, require_valid
from predictor_service.admission import RefusedQueryError
from predictor_service.batching.batcher import Batcher, QueueFullError
from predictor_service.model import ModelFailedError
from predictor_service.predictions import Predictions
from predictor_service.trials import Trials
from predictor_service.wire.messages import query_of, response_of
from predictor_service.wire.stream import PredictionStream

_Context = grpc.aio.ServicerContext[Any, Any]
_KINDS = {name.removeprefix("MODEL_KIND_").lower(): value for name, value in pb.ModelKind.items()}
_TRIALS = {name.removeprefix("TRIAL_KIND_").lower(): value for name, value in pb.TrialKind.items()}


class PredictorServicer(predictor_pb2_grpc.PredictorServiceServicer):
    """Answers our own API from ``predictions``: wire messages in, wire messages and statuses out."""

    def __init__(
        self, predictions: Predictions, calls: StreamedCalls, draining: asyncio.Event, patience: float = 1.0
    ) -> None:
        """Answer from ``predictions``; ``calls`` measures what comes by stream.

        ``patience``: seconds in which the clients of streams may hear that the server is ``draining``.
        """
        self._predictions = predictions
        self._calls, self._draining, self._patience = calls, draining, patience

    async def Predict(self, request: pb.PredictRequest, context: _Context) -> pb.PredictResponse:
        """Return one prediction per query, in their order."""
        await require_valid(context, request)
        queries = [query_of(query) for query in request.queries]
        layers = [query.hidden_state.layer for query in request.queries]
        try:
            return response_of(await self._predictions.predict(request.model, queries, layers))
        except (RefusedQueryError, QueueFullError, ModelFailedError) as error:
            await abort(context, error)

    async def PredictStream(  # type: ignore[override]  # gRPC takes a coroutine that writes, too
        self, _: AsyncIterator[pb.PredictStreamRequest], context: _Context
    ) -> None:
        """Answer requests as they come, each by its id."""
        await PredictionStream(self._predictions, self._calls, context, self._draining, self._patience).run()

    async def GetModel(self, request: pb.GetModelRequest, context: _Context) -> pb.GetModelResponse:
        """Describe the model that is named, or the default one."""
        await require_valid(context, request)
        try:
            batcher = self._predictions.batcher(request.model)
        except RefusedQueryError as error:
            await abort(context, error)
        return pb.GetModelResponse(model=_model(batcher, self._predictions.trials))

    async def ListModels(self, request: pb.ListModelsRequest, context: _Context) -> pb.ListModelsResponse:
        """Describe every model, the default first."""
        known = self._predictions
        names = sorted(known.batchers, key=lambda name: (name != known.default, name))
        return pb.ListModelsResponse(models=[_model(known.batchers[name], known.trials) for name in names])


async def abort(context: _Context, error: RefusedQueryError | QueueFullError | ModelFailedError) -> NoReturn:
    """End a call with the status that belongs to the error."""
    if isinstance(error, ModelFailedError):  # why stands in the log: the reason may name what was asked
        failed = [("model", "its graph cannot run these queries")]
        await abort_invalid(context, failed, grpc.StatusCode.FAILED_PRECONDITION)
    if isinstance(error, QueueFullError):
        await abort_retry(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), retry_seconds=0.1)
    invalid = grpc.StatusCode.FAILED_PRECONDITION if error.precondition else grpc.StatusCode.INVALID_ARGUMENT
    await abort_invalid(context, [(error.field_name, error.description)], invalid)


def _model(batcher: Batcher, trials: Trials) -> pb.Model:
    manifest = batcher.model.manifest
    return pb.Model(
        name=manifest.name,
        version=manifest.version,
        kind=_KINDS.get(manifest.kind, pb.MODEL_KIND_CUSTOM),
        kind_name=manifest.kind,
        budget_window_tokens=manifest.budget_window_tokens,
        windows=manifest.windows,
        takes_text=manifest.takes_text,
        hidden_size=manifest.hidden_size,
        layer=manifest.layer,
        mean_curve=manifest.mean_curve,
        budget_points=manifest.budget_points,
        mean_used_tokens=manifest.mean_used_tokens,
        reliability=manifest.reliability,
        max_text_bytes=manifest.max_text_bytes,
        most_unfamiliarity=manifest.most_unfamiliarity or 0,
        false_alarm_rate=manifest.false_alarm_rate or 0,
        max_batch_size=batcher.max_batch_size,
        trials=[
            pb.Trial(
                model=trial.model,
                kind=_TRIALS[kind],
                share=trial.share,
                queries=record.queries,
                failures=record.failures,
                mean_absolute_difference=record.mean_difference,
                seconds_per_query=record.seconds_per_query,
            )
            for kind, trial, record in trials.of(manifest.name)
        ],
    )
