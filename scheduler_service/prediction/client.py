"""The edge to the predictor. It never raises: a prediction that cannot be had comes back as the reason why."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc
import grpc.aio

from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from predictive_scheduling.predictor.v1 import predictor_pb2_grpc
from scheduler_service.domain import Job, Prediction, PredictionOutcome

_OUTCOMES = {
    grpc.StatusCode.DEADLINE_EXCEEDED: PredictionOutcome.TIMEOUT,
    grpc.StatusCode.UNAVAILABLE: PredictionOutcome.UNAVAILABLE,
    grpc.StatusCode.CANCELLED: PredictionOutcome.UNAVAILABLE,
    grpc.StatusCode.INTERNAL: PredictionOutcome.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN: PredictionOutcome.UNAVAILABLE,
}


@dataclass(frozen=True)
class PredictorInfo:
    """What the predictor's model takes and is. ``hidden_size``: 0 for no hidden state; ``max_text_bytes``: of a prompt.

    ``mean_curve``: mean accuracy of its training data per window; ``reliability``: its validated correlation.
    """

    name: str
    takes_text: bool
    hidden_size: int
    layer: int
    max_text_bytes: int
    version: str = ""
    mean_curve: tuple[float, ...] = ()
    reliability: float = 1.0


class Predictor(Protocol):
    """Predicts accuracy curves for jobs."""

    async def info(self) -> PredictorInfo | None:
        """Return what the model takes, or ``None`` while that cannot be had."""
        ...

    async def predict(self, jobs: Sequence[Job]) -> list[Prediction]:
        """Return one prediction, or the reason for none, per job."""
        ...

    def mean_curve(self, predictor: str) -> Sequence[float]:
        """Return the mean curve of ``predictor`` (name@version) as last heard; empty where it is not known."""
        ...


class NoPredictor:
    """Stands in where no predictor is configured."""

    async def info(self) -> PredictorInfo | None:
        """Nothing is known."""
        return None

    async def predict(self, jobs: Sequence[Job]) -> list[Prediction]:
        """Nothing is predicted."""
        return [Prediction(PredictionOutcome.DISABLED)] * len(jobs)

    def mean_curve(self, predictor: str) -> Sequence[float]:
        """Nothing is known."""
        return ()


class GrpcPredictor:
    """The predictor service over gRPC; one call a window, cut off after ``timeout_seconds``."""

    def __init__(
        self, channel: grpc.aio.Channel, *, model: str, timeout_seconds: float, windows_tokens: int = 16
    ) -> None:
        """Ask over ``channel`` for predictions of ``model`` (empty: the predictor's default)."""
        self._stub = predictor_pb2_grpc.PredictorServiceStub(channel)
        self._model = model
        self._timeout = timeout_seconds
        self._window_tokens = windows_tokens
        self._info: PredictorInfo | None = None
        self._means: dict[str, tuple[float, ...]] = {}  # by name@version

    async def info(self) -> PredictorInfo | None:
        """Ask once, remember the answer."""
        if self._info is None:
            self._info = await self._describe(self._model)
        return self._info

    async def _describe(self, name: str) -> PredictorInfo | None:
        try:
            request = pb.GetModelRequest(model=name)
            model = (await self._stub.GetModel(request, timeout=self._timeout)).model
        except grpc.aio.AioRpcError:
            return None
        self._means[f"{model.name}@{model.version}"] = tuple(model.mean_curve)
        return PredictorInfo(
            model.name, model.takes_text, model.hidden_size, model.layer, model.max_text_bytes,
            model.version, tuple(model.mean_curve), model.reliability,
        )  # fmt: skip

    async def predict(self, jobs: Sequence[Job]) -> list[Prediction]:
        """Predict the jobs that the model takes in one call; the others are refused one by one."""
        try:
            async with asyncio.timeout(self._timeout):
                info = await self.info()
                fitting = [at for at, job in enumerate(jobs) if info is None or _fits(job, info)]
                predictions = [Prediction(PredictionOutcome.REFUSED)] * len(jobs)
                if fitting:
                    answered = await self._ask([jobs[at] for at in fitting], info)
                    for at, prediction in zip(fitting, answered, strict=True):
                        predictions[at] = prediction
                return predictions
        except TimeoutError:
            return [Prediction(PredictionOutcome.TIMEOUT)] * len(jobs)

    def mean_curve(self, predictor: str) -> Sequence[float]:
        """The mean curve of a model that has answered, or is asked."""
        return self._means.get(predictor, ())

    async def _ask(self, jobs: list[Job], info: PredictorInfo | None) -> list[Prediction]:
        request = pb.PredictRequest(model=self._model, queries=[_query(job, info) for job in jobs])
        try:
            response = await self._stub.Predict(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            self._info = None  # the predictor may come back with another model
            outcome = _OUTCOMES.get(error.code(), PredictionOutcome.REFUSED)
            return [Prediction(outcome)] * len(jobs)
        if len(response.predictions) != len(jobs) or response.budget_window_tokens != self._window_tokens:
            return [Prediction(PredictionOutcome.INVALID)] * len(jobs)
        predictor = f"{response.model}@{response.version}"
        if not response.canary and info is not None and response.version != info.version:
            self._info = None  # it was exchanged; what it takes is asked again
        if response.canary and predictor not in self._means:
            await self._describe(response.model)
        return [_prediction(prediction, predictor) for prediction in response.predictions]


def _fits(job: Job, info: PredictorInfo) -> bool:
    too_long = info.takes_text and len(job.prompt.encode()) > info.max_text_bytes
    return not too_long and (not info.hidden_size or job.hidden_state is not None)


def _query(job: Job, info: PredictorInfo | None) -> pb.Query:
    """A job as a query: its hidden state travels only to a model that takes one."""
    query = pb.Query(text=job.prompt)
    if job.hidden_state is not None and (info is None or info.hidden_size):
        query.hidden_state.values.extend(job.hidden_state.values)
        query.hidden_state.layer = job.hidden_state.layer
    return query


def _prediction(prediction: pb.Prediction, predictor: str) -> Prediction:
    curve = tuple(prediction.curve)
    if prediction.status == pb.PREDICTION_STATUS_ABSTAIN:
        return Prediction(PredictionOutcome.ABSTAINED, predictor=predictor)
    sound = bool(curve) and all(math.isfinite(value) and 0 <= value <= 1 for value in curve)
    if prediction.status != pb.PREDICTION_STATUS_OK or not sound:
        return Prediction(PredictionOutcome.INVALID, predictor=predictor)
    return Prediction(PredictionOutcome.FRESH, curve, predictor, tuple(prediction.uncertainty))
