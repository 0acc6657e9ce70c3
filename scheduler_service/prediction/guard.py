"""A predictor that is asked less: its predictions are remembered, and one that keeps failing is left alone a while."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from predictive_scheduling.circuit_breaker import CircuitBreaker
from scheduler_service.allocation.curve import Curve
from scheduler_service.domain import Job, Prediction, PredictionOutcome
from scheduler_service.prediction.answers import PredictorInfo
from scheduler_service.prediction.client import Predictor

_FAILED = frozenset({PredictionOutcome.TIMEOUT, PredictionOutcome.UNAVAILABLE})
_REST_SECONDS = 1.0
_MOST_VALUES = 1 << 20  # of all remembered curves together, some 32 bytes each
_MOST_MODELS = 64


class RemotePredictor(Predictor, Protocol):
    """A predictor that is asked over a network."""

    def refuses(self, job: Job) -> bool:
        """Whether it is known, without asking, that the model does not take the job."""
        ...


class GuardedPredictor:
    """Wraps a predictor. ``entries``, ``seconds``: how many predictions are remembered, and for how long; 0 for none.

    A prompt is remembered by its digest. Predictions of a hidden state are not: the caller knows more than the prompt.
    A model that answers with another version is remembered no more.

    A predictor that keeps failing is asked once a second, so that it is found as soon as it is back: each try costs one
    call its timeout. What is refused without asking says nothing about the predictor, and does not count.
    """

    def __init__(
        self,
        inner: RemotePredictor,
        *,
        entries: int = 4096,
        seconds: float = 300.0,
        breaker: CircuitBreaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put cache and circuit breaker before ``inner``."""
        self._inner = inner
        self._entries, self._seconds = entries, seconds
        self._breaker = breaker or CircuitBreaker(rest_seconds=_REST_SECONDS, longest_rest_seconds=_REST_SECONDS)
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, Prediction]] = OrderedDict()
        self._values = 0
        self._versions: OrderedDict[str, str] = OrderedDict()

    async def info(self) -> PredictorInfo | None:
        """What the inner one says; ``None`` while it is left alone."""
        return None if self._breaker.resting(self._clock()) else await self._inner.info()

    def points(self) -> tuple[int, ...]:
        """The budget points of the model, as last heard."""
        return self._inner.points()

    def mean_curve(self, predictor: str) -> Curve:
        """Return the mean curve that the guarded predictor knows."""
        return self._inner.mean_curve(predictor)

    async def predict(self, jobs: Sequence[Job]) -> list[Prediction]:
        """Predict what is not remembered, if the predictor may be asked at all."""
        now = self._clock()
        keys = [_digest(job) if self._entries and job.hidden_state is None else b"" for job in jobs]
        found = [self._remembered(key, now) for key in keys]
        for at, job in enumerate(jobs):
            if found[at] is None and self._inner.refuses(job):
                found[at] = Prediction(PredictionOutcome.REFUSED)
        unknown = [at for at, prediction in enumerate(found) if prediction is None]
        if unknown and self._breaker.allows(now):
            answers = await self._inner.predict([jobs[at] for at in unknown])
            self._learn(answers)
            for at, prediction in zip(unknown, answers, strict=True):
                found[at] = prediction
                self._remember(keys[at], prediction)
        return [prediction or Prediction(PredictionOutcome.UNAVAILABLE) for prediction in found]

    def _learn(self, answers: Sequence[Prediction]) -> None:
        if any(prediction.outcome in _FAILED for prediction in answers):
            self._breaker.failed(self._clock())
            return
        self._breaker.answered()
        for served in {answer.predictor for answer in answers if answer.predictor}:
            name = served.rpartition("@")[0]
            old = self._versions.pop(name, served)
            self._versions[name] = served
            if old != served:
                for key in [key for key, (_, known) in self._known.items() if known.predictor == old]:
                    self._forget(key)
        while len(self._versions) > _MOST_MODELS:
            self._versions.popitem(last=False)

    def _remembered(self, key: bytes, now: float) -> Prediction | None:
        entry = self._known.get(key)
        if entry is None or entry[0] < now:
            return None
        self._known.move_to_end(key)
        return entry[1]

    def _remember(self, key: bytes, prediction: Prediction) -> None:
        if not key or prediction.outcome is not PredictionOutcome.FRESH:
            return
        self._forget(key)
        self._known[key] = (self._clock() + self._seconds, prediction)
        self._values += _values(prediction)
        while len(self._known) > self._entries or self._values > _MOST_VALUES:
            self._forget(next(iter(self._known)))

    def _forget(self, key: bytes) -> None:
        if (entry := self._known.pop(key, None)) is not None:
            self._values -= _values(entry[1])


def _values(prediction: Prediction) -> int:
    curve = prediction.curve
    return len(curve.accuracy) + len(curve.used) + len(prediction.uncertainty)


def _digest(job: Job) -> bytes:
    return hashlib.blake2b(job.prompt.encode(), digest_size=16).digest()
