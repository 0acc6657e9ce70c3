"""The edge to the predictor. It never raises: a prediction that cannot be had comes back as the reason why."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from predictive_scheduling.predictor.v1 import predictor_pb2 as pb
from scheduler_service.allocation.curve import Curve
from scheduler_service.domain import NO_CURVE, Job, Prediction, PredictionOutcome
from scheduler_service.prediction.answers import (
    MOST_NAME,
    PredictorInfo,
    UnsoundAnswerError,
    read_model,
    read_points,
    read_prediction,
)
from scheduler_service.prediction.streams import PredictionStreams

log = logging.getLogger(__name__)

_MOST_MODELS = 32  # that are remembered: the one that is asked, its versions, canaries
_MOST_LABELS = 10_000  # names and versions in all: books and metrics are kept by them, and never forget one
_LOG_SECONDS = 10.0  # between lines about unsound answers
_OUTCOMES = {
    grpc.StatusCode.DEADLINE_EXCEEDED: PredictionOutcome.TIMEOUT,
    grpc.StatusCode.UNAVAILABLE: PredictionOutcome.UNAVAILABLE,
    grpc.StatusCode.CANCELLED: PredictionOutcome.UNAVAILABLE,
    grpc.StatusCode.INTERNAL: PredictionOutcome.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN: PredictionOutcome.UNAVAILABLE,
}
_OUTCOMES_BY_NUMBER = {code.value[0]: outcome for code, outcome in _OUTCOMES.items()}


class Predictor(Protocol):
    """Predicts accuracy curves for jobs."""

    async def info(self) -> PredictorInfo | None:
        """Return what the model takes, or ``None`` while that cannot be had."""
        ...

    async def predict(self, jobs: Sequence[Job]) -> list[Prediction]:
        """Return one prediction, or the reason for none, per job."""
        ...

    def points(self) -> tuple[int, ...]:
        """Return the budget points of the model's curves as last heard; empty while they are not known."""
        ...

    def mean_curve(self, predictor: str) -> Curve:
        """Return the mean curve of ``predictor`` (name@version) as last heard; empty where it is not known."""
        ...


class NoPredictor:
    """Stands in where no predictor is configured."""

    async def info(self) -> PredictorInfo | None:
        """Return ``None``: there is no model to describe."""
        return None

    async def predict(self, jobs: Sequence[Job]) -> list[Prediction]:
        """Return predictions that say so, and make each request's budget uniform."""
        return [Prediction(PredictionOutcome.DISABLED)] * len(jobs)

    def points(self) -> tuple[int, ...]:
        """Return no points: budgets follow the settings."""
        return ()

    def mean_curve(self, predictor: str) -> Curve:
        """Return no curve."""
        return NO_CURVE


class GrpcPredictor:
    """The predictor service over gRPC; one request a window, by stream or as a call, cut off after ``timeout_seconds``.

    What its model takes is asked once, and again where a call fails, where another version answers, and every
    ``info_seconds``.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        model: str,
        timeout_seconds: float,
        info_seconds: float = 60.0,
        streams: PredictionStreams | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask over ``channel`` for predictions of ``model`` (empty: the predictor's default).

        ``streams``: where predictions are asked for while they are open; without, each has a call of its own.
        """
        self._streams = streams
        self._predict = _method(channel, "Predict", pb.PredictResponse)
        self._get_model = _method(channel, "GetModel", pb.GetModelResponse)
        self._model = model
        self._timeout = timeout_seconds
        self._info_seconds, self._clock = info_seconds, clock
        self._info: PredictorInfo | None = None
        self._info_until = self._asks_from = 0.0
        self._ask_again = False
        self._known: OrderedDict[str, PredictorInfo] = OrderedDict()  # by name@version
        self._labels: set[str] = set()
        self._log_from, self._unsaid = 0.0, 0

    async def info(self) -> PredictorInfo | None:
        """Return what is known of the model; the predictor is asked where that is nothing yet, or old.

        No prediction may tell of a change: where a model's states do not come, none is asked for.
        """
        now = self._clock()
        if self._info is None or now >= max(self._info_until, self._asks_from):
            self._asks_from = now + self._info_seconds  # one asks at a time, and a predictor that is away is left alone
            with contextlib.suppress(_NotHadError):
                await self._ask_info()
        return self._info

    def refuses(self, job: Job) -> bool:
        """Whether the model, as far as it is known, does not take the job, so that the predictor need not be asked."""
        return self._info is not None and self._clock() < self._info_until and not self._info.fits(job)

    def points(self) -> tuple[int, ...]:
        """The budget points of the model that is asked, as last heard."""
        return () if self._info is None else self._info.points

    def mean_curve(self, predictor: str) -> Curve:
        """The mean curve of a model that has answered, or is asked."""
        known = self._known.get(predictor)
        return NO_CURVE if known is None else known.mean_curve

    async def predict(self, jobs: Sequence[Job]) -> list[Prediction]:
        """Predict the jobs that the model takes in one call; the others are refused one by one."""
        try:
            async with asyncio.timeout(self._timeout):
                info = self._info
                if info is None or self._ask_again or self._clock() >= self._info_until:
                    info = await self._ask_info()
                fitting = [at for at, job in enumerate(jobs) if info.fits(job)]
                predictions = [Prediction(PredictionOutcome.REFUSED)] * len(jobs)
                if fitting:
                    answered = await self._ask([jobs[at] for at in fitting], info)
                    for at, prediction in zip(fitting, answered, strict=True):
                        predictions[at] = prediction
                return predictions
        except TimeoutError:
            self._ask_again = True
            return [Prediction(PredictionOutcome.TIMEOUT)] * len(jobs)
        except _NotHadError as error:
            self._ask_again = True  # it may come back with another model; until it is asked, what is known stands
            return [Prediction(error.outcome)] * len(jobs)

    async def _ask(self, jobs: list[Job], info: PredictorInfo) -> list[Prediction]:
        """The predictions of jobs that fit, in order."""
        request = pb.PredictRequest(model=self._model, queries=[_query(job, info) for job in jobs])
        response = await self._ask_by_stream(request)
        if response is None:
            response = await self._call(self._predict, request)
        served = await self._served(response)
        if len(response.predictions) != len(jobs):
            raise self._unsound(f"Predict: {len(response.predictions)} predictions for {len(jobs)} queries")
        if read_points(response.budget_points, len(served.points), response.budget_window_tokens) != served.points:
            raise self._unsound("Predict: budget_points: not those that GetModel announces")
        predictions = [read_prediction(prediction, served) for prediction in response.predictions]
        if any(prediction.outcome is PredictionOutcome.INVALID for prediction in predictions):
            self._ask_again = True
            self._log(
                f"Predict: a curve of {served.label} is not {len(served.points)} rising fractions, or its use is none"
            )
        return predictions

    async def _ask_by_stream(self, request: pb.PredictRequest) -> pb.PredictResponse | None:
        """The response by stream; ``None`` where it is to be had by a call: to predict twice does no harm."""
        answer = None if self._streams is None else await self._streams.ask(request, self._timeout)
        if answer is None:
            return None
        if answer.HasField("error"):
            raise _NotHadError(_OUTCOMES_BY_NUMBER.get(answer.error.code, PredictionOutcome.REFUSED))
        if not answer.HasField("response"):
            raise self._unsound("PredictStream: neither predictions nor an error")
        return answer.response

    async def _served(self, response: pb.PredictResponse) -> PredictorInfo:
        """What the model that answered is; asked where it is another than before: a new version, or a canary."""
        label = f"{response.model}@{response.version}"
        if label not in self._known:
            if response.canary:
                await self._describe(response.model)
            else:
                await self._ask_info()
        if (served := self._known.get(label)) is None:
            raise self._unsound("Predict: model, version: another than GetModel describes")
        self._known.move_to_end(label)
        if not response.canary:
            self._info = served
        return served

    async def _ask_info(self) -> PredictorInfo:
        self._info = await self._describe(self._model)
        self._info_until, self._ask_again = self._clock() + self._info_seconds, False
        return self._info

    async def _describe(self, name: str) -> PredictorInfo:
        if len(name) > MOST_NAME:
            raise self._unsound("Predict: model: too long")
        response: pb.GetModelResponse = await self._call(self._get_model, pb.GetModelRequest(model=name))
        try:
            info = read_model(response.model)
        except UnsoundAnswerError as error:
            raise self._unsound(str(error)) from None
        if not info.mean_curve.points:
            self._log(f"GetModel: mean_curve: not {len(info.points)} rising fractions, so it is not used")
        if info.label not in self._labels and len(self._labels) >= _MOST_LABELS:
            raise self._unsound(f"GetModel: name, version: more than {_MOST_LABELS} since the start")
        self._labels.add(info.label)
        self._known[info.label] = info
        while len(self._known) > _MOST_MODELS:
            self._known.popitem(last=False)
        return info

    async def _call(self, method: Any, request: Any) -> Any:
        """Call, and raise _NotHadError for whatever goes wrong."""
        try:
            response = await method(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise _NotHadError(_OUTCOMES.get(error.code(), PredictionOutcome.REFUSED)) from None
        if response is None:
            raise self._unsound("the bytes of a response are no message")
        return response

    def _unsound(self, fault: str) -> _NotHadError:
        self._log(fault)
        return _NotHadError(PredictionOutcome.INVALID)

    def _log(self, fault: str) -> None:
        """Say what the predictor does wrong, but not every time."""
        now = self._clock()
        if now < self._log_from:
            self._unsaid += 1
            return
        log.warning("the predictor's answer is not used: %s (%d more since this was last said)", fault, self._unsaid)
        self._log_from, self._unsaid = now + _LOG_SECONDS, 0


class _NotHadError(Exception):
    """There is no answer that could be used; ``outcome`` says why."""

    def __init__(self, outcome: PredictionOutcome) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome


def _method(channel: grpc.aio.Channel, name: str, response: type[Any]) -> Any:
    """A method of the service whose responses may be no messages: ``None`` stands for them.

    The generated stub's would be ``None``, too, but with a stack trace in the log each time.
    """

    def parse(raw: bytes) -> Any:
        try:
            return response.FromString(raw)
        except DecodeError:
            return None

    service = pb.DESCRIPTOR.services_by_name["PredictorService"].full_name
    return channel.unary_unary(
        f"/{service}/{name}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=parse,
    )


def _query(job: Job, info: PredictorInfo) -> pb.Query:
    """A job as a query: its hidden state travels only to a model that takes one."""
    query = pb.Query(text=job.prompt)
    if job.hidden_state is not None and info.hidden_size:
        query.hidden_state.values.extend(job.hidden_state.values)
        query.hidden_state.layer = job.hidden_state.layer
    return query
