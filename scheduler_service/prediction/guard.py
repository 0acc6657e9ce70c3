"""A predictor that is asked less: its predictions are remembered, and one that keeps failing is left alone a while."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from scheduler_service.domain import Job, Prediction, PredictionOutcome
from scheduler_service.prediction.circuit_breaker import CircuitBreaker
from scheduler_service.prediction.client import Predictor, PredictorInfo

_FAILED = frozenset({PredictionOutcome.TIMEOUT, PredictionOutcome.UNAVAILABLE})


class GuardedPredictor:
    """Wraps a predictor. ``entries``, ``seconds``: how many predictions are remembered, and for how long; 0 for none.

    A prompt is remembered by its digest. Predictions of a hidden state are not: the caller knows more than the prompt.
    A model that answers with another version is remembered no more.
    """

    def __init__(
        self,
        inner: Predictor,
        *,
        entries: int = 4096,
        seconds: float = 300.0,
        breaker: CircuitBreaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Guard ``inner``."""
        self._inner = inner
        self._entries, self._seconds = entries, seconds
        self._breaker = breaker or CircuitBreaker()
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, Prediction]] = OrderedDict()
        self._versions: dict[str, str] = {}

    async def info(self) -> PredictorInfo | None:
        """What the inner one says."""
        return await self._inner.info()

    def mean_curve(self, predictor: str) -> Sequence[float]:
        """What the inner one says."""
        return self._inner.mean_curve(predictor)

    async def predict(self, jobs: Sequence[Job]) -> list[Prediction]:
        """Predict what is not remembered, if the predictor may be asked at all."""
        now = self._clock()
        keys = [_digest(job) if self._entries and job.hidden_state is None else b"" for job in jobs]
        found = [self._remembered(key, now) for key in keys]
        unknown = [at for at, prediction in enumerate(found) if prediction is None]
        if unknown and self._breaker.allows(now):
            answers = await self._inner.predict([jobs[at] for at in unknown])
            self._learn(answers)
            for at, prediction in zip(unknown, answers, strict=True):
                found[at] = prediction
                self._remember(keys[at], prediction)
        return [prediction or Prediction(PredictionOutcome.UNAVAILABLE) for prediction in found]

    def _learn(self, answers: Sequence[Prediction]) -> None:
        if all(prediction.outcome in _FAILED for prediction in answers):
            self._breaker.failed(self._clock())
            return
        self._breaker.answered()
        for served in {answer.predictor for answer in answers if answer.predictor}:
            name = served.rpartition("@")[0]
            if self._versions.setdefault(name, served) != served:
                old, self._versions[name] = self._versions[name], served
                for key in [key for key, (_, known) in self._known.items() if known.predictor == old]:
                    del self._known[key]

    def _remembered(self, key: bytes, now: float) -> Prediction | None:
        entry = self._known.get(key)
        if entry is None or entry[0] < now:
            return None
        self._known.move_to_end(key)
        return entry[1]

    def _remember(self, key: bytes, prediction: Prediction) -> None:
        if not key or prediction.outcome is not PredictionOutcome.FRESH:
            return
        self._known[key] = (self._clock() + self._seconds, prediction)
        while len(self._known) > self._entries:
            self._known.popitem(last=False)


def _digest(job: Job) -> bytes:
    return hashlib.blake2b(job.prompt.encode(), digest_size=16).digest()
