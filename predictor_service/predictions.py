"""What both of the predictor's APIs do with a call: find its model, check it, predict, try other models out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opentelemetry import trace

from predictive_scheduling import semconv
from predictor_service.admission import RefusedQueryError, admit
from predictor_service.artifact import Manifest
from predictor_service.batching.batcher import Batcher, Predicted
from predictor_service.inputs.features import Query
from predictor_service.model import BatchResult
from predictor_service.trials import Trial, TrialRecord, Trials

log = logging.getLogger(__name__)

_MOST_SHADOWS = 64


@dataclass(frozen=True)
class Answer:
    """The predictions of a call, by which model, and whether that one was on trial."""

    manifest: Manifest
    predicted: Predicted
    canary: bool = False


class Predictions:
    """Predicts by the models of ``batchers``; ``default`` is the one of calls that name none."""

    def __init__(
        self,
        batchers: Mapping[str, Batcher],
        default: str,
        tasks: asyncio.TaskGroup,
        trials: Trials | None = None,
        on_answer: Callable[[Answer, int], None] = lambda *_: None,
    ) -> None:
        """Run shadows in ``tasks``. ``on_answer`` is called for every answer, with the number of its queries."""
        self._on_answer = on_answer
        self.batchers, self.default = batchers, default
        self.trials = trials or Trials()
        self._tasks = tasks
        self._shadows: set[asyncio.Task[None]] = set()

    def batcher(self, name: str) -> Batcher:
        """Return the batcher of a model. Raises RefusedQueryError for a name that no model has."""
        batcher = self.batchers.get(name or self.default)
        if batcher is None:
            raise self._not_served(name or self.default)
        return batcher

    def _not_served(self, name: str) -> RefusedQueryError:
        wrong = f"{name!r} is not served; served are {', '.join(sorted(self.batchers)) or 'none yet'}"
        return RefusedQueryError("model", wrong, precondition=True)

    async def predict(self, name: str, queries: Sequence[Query], layers: Sequence[int]) -> Answer:
        """Predict by the model ``name`` or its canary. ``layers``: where hidden states come from, 0 unsaid.

        A canary answers its share also where the model itself is not there (yet): so a first model is tried.
        Raises RefusedQueryError for what the model does not take, QueueFullError, ModelFailedError.
        """
        asked = name or self.default
        batcher = self.batchers.get(asked)
        admitted = list(queries) if batcher is None else _admitted(batcher, queries, layers)
        answer = await self._by_canary(asked, batcher, admitted, layers)
        if answer is None:
            if batcher is None:
                raise self._not_served(asked)
            answer = Answer(batcher.model.manifest, await batcher.predict(admitted))
            self._shadow(batcher, admitted, layers, answer)
        self._record(answer, len(queries), trace.get_current_span())
        return answer

    def begin(
        self,
        name: str,
        queries: Sequence[Query],
        layers: Sequence[int],
        answered: Callable[[Answer | Exception], None],
        *,
        span: trace.Span,
        alone: bool,
    ) -> Callable[[], object]:
        """Predict as ``predict`` does, but call ``answered``, once, perhaps before this returns.

        ``span``: of the request. ``alone``: whether no other requests come with this one, so that it may run without
        waiting for them. Returns what gives the request up; ``answered`` is not called then. Raises RefusedQueryError,
        QueueFullError and ModelFailedError where that is known at once.
        """
        trials = self.trials.of(name or self.default)
        if trials or len(queries) > self.batcher(name).max_batch_size:
            return self._tasks.create_task(self._tell(name, queries, layers, answered, span)).cancel
        batcher = self.batcher(name)
        admitted, manifest = _admitted(batcher, queries, layers), batcher.model.manifest
        if alone and (predicted := batcher.predict_now(admitted)) is not None:
            answer = Answer(manifest, predicted)
            self._record(answer, len(queries), span)
            answered(answer)
            return lambda: None

        def finished(result: asyncio.Future[tuple[BatchResult, float]]) -> None:
            if result.cancelled():
                return
            if (error := result.exception()) is not None:
                answered(_plain(error))
                return
            answer = Answer(manifest, Predicted(*result.result()))
            self._record(answer, len(queries), span)
            answered(answer)

        waiting = batcher.enqueue(admitted)
        waiting.add_done_callback(finished)
        return waiting.cancel

    async def _tell(
        self,
        name: str,
        queries: Sequence[Query],
        layers: Sequence[int],
        answered: Callable[[Answer | Exception], None],
        span: trace.Span,
    ) -> None:
        answer: Answer | Exception
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                answer = await self.predict(name, queries, layers)
        except Exception as error:  # a request that fails must not end the server
            answer = error
        answered(answer)

    def _record(self, answer: Answer, size: int, span: trace.Span) -> None:
        if span.is_recording():
            _annotate(answer, size, span)
        self._on_answer(answer, size)

    async def _by_canary(
        self, name: str, asked: Batcher | None, queries: Sequence[Query], layers: Sequence[int]
    ) -> Answer | None:
        """The canary's answer, where it gets this call of model ``name``, which may not be there, and can give one."""
        found = self.trials.find("canary", name, queries)
        if found is None:
            return None
        trial, record = found
        predicted = await self._try(asked, trial, record, queries, layers)
        return None if predicted is None else Answer(predicted[0], predicted[1], canary=True)

    def _shadow(self, asked: Batcher, queries: Sequence[Query], layers: Sequence[int], answer: Answer) -> None:
        """Let a shadow predict the same, after the answer; what is too much for it is left out."""
        found = self.trials.find("shadow", asked.model.name, queries)
        if found is None or len(self._shadows) >= _MOST_SHADOWS:
            return
        trial, record = found

        async def compare() -> None:
            predicted = await self._try(asked, trial, record, queries, layers)
            if predicted is not None:
                record.differed(answer.predicted.result.curves, predicted[1].result.curves)

        task = self._tasks.create_task(compare())
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _try(
        self, asked: Batcher | None, trial: Trial, record: TrialRecord, queries: Sequence[Query], layers: Sequence[int]
    ) -> tuple[Manifest, Predicted] | None:
        """Predict by a model on trial; an error is counted, and not raised. One that is not there has not failed."""
        batcher = self.batchers.get(trial.model)
        if batcher is None:
            return None
        try:
            if asked is not None:
                _check_alike(asked.model.manifest, batcher.model.manifest)
            predicted = await batcher.predict(_admitted(batcher, queries, layers))
        except Exception as error:
            if not record.failures:
                log.warning("model %s, on trial, fails: %s", trial.model, error)
            record.failures += len(queries)
            return None
        record.answered(len(queries), predicted.result.inference_seconds)
        return batcher.model.manifest, predicted


def _admitted(batcher: Batcher, queries: Sequence[Query], layers: Sequence[int]) -> list[Query]:
    manifest = batcher.model.manifest
    return [admit(manifest, at, query, layer) for at, (query, layer) in enumerate(zip(queries, layers, strict=True))]


def _check_alike(asked: Manifest, tried: Manifest) -> None:
    """Refuse a trial whose curves cannot stand in for the others'."""
    if asked.budget_points != tried.budget_points:
        points = tried.budget_points
        wrong = f"its curves have {len(points)} points from {points[0]} to {points[-1]} tokens, not as {asked.name}'s"
        raise RefusedQueryError("model", wrong, precondition=True)


def _plain(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


def _annotate(answer: Answer, size: int, span: trace.Span) -> None:
    result = answer.predicted.result
    span.set_attributes(
        {
            semconv.PREDICTOR: f"{answer.manifest.name}@{answer.manifest.version}",
            semconv.CANARY: answer.canary,
            semconv.BATCH_SIZE: size,
            semconv.QUEUE_DURATION: answer.predicted.queue_seconds,
            semconv.TOKENIZE_DURATION: result.tokenize_seconds,
            semconv.INFERENCE_DURATION: result.inference_seconds,
        }
    )
