"""What the predictor measures, by OpenTelemetry. Each instrument is described in docs/metrics.md, with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from predictive_scheduling import semconv
from predictive_scheduling.plain_counter import PlainCounter
from predictor_service.abstention import Abstention
from predictor_service.artifact import Manifest
from predictor_service.model import BatchResult
from predictor_service.predictions import Answer, Predictions
from predictor_service.trials import TrialRecord

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
_PREFIX = semconv.OWN + "predictor."


class PredictorMetrics:
    """Measures every call that is answered, every batch, and the queues whenever metrics are collected."""

    def __init__(self, meters: metrics.MeterProvider) -> None:
        """Create the instruments with ``meters``."""
        self._meter = meters.get_meter("predictor_service")
        self._queries = PlainCounter(self._meter, _PREFIX + "queries", "{query}", "Queries predicted, by model")
        self._abstentions = PlainCounter(
            self._meter, _PREFIX + "abstentions", "{query}", "Queries abstained on, by reason"
        )
        self._size = self._histogram("batch.size", "{query}", "Queries that ran as one batch", _BATCHES)
        self._queue = self._histogram("queue.duration", "s", "Time that a call waited for its batch", _SECONDS)
        self._tokenize = self._histogram("tokenize.duration", "s", "Time from queries to a graph's inputs", _SECONDS)
        self._inference = self._histogram("inference.duration", "s", "Time in the graph", _SECONDS)

    def answered(self, answer: Answer, queries: int) -> None:
        """Record an answered call: its queries, how long it waited, and what the model abstained on."""
        labels = _labels(answer.manifest)
        self._queue.record(answer.predicted.queue_seconds, labels)
        self._queries.add(queries, labels | {"canary": answer.canary})
        abstained = answer.predicted.result.abstained
        if abstained.any():
            for reason, count in zip(*np.unique(abstained[abstained > 0], return_counts=True), strict=True):
                self._abstentions.add(int(count), labels | {"reason": Abstention(reason).name.lower()})

    def ran(self, manifest: Manifest, result: BatchResult) -> None:
        """Record a batch: its size, and the times of its stages."""
        labels = _labels(manifest)
        self._size.record(len(result.curves), labels)
        self._tokenize.record(result.tokenize_seconds, labels)
        self._inference.record(result.inference_seconds, labels)

    def watch(self, predictions: Predictions, refused: Callable[[], int]) -> None:
        """Observe queues and trials, and how many model folders are ``refused``."""

        def waiting() -> Iterator[Observation]:
            for name, batcher in list(predictions.batchers.items()):
                yield Observation(batcher.waiting, {"model": name})

        def trials(read: Callable[[TrialRecord], float]) -> Iterator[Observation]:
            for name in list(predictions.batchers):
                for kind, trial, record in predictions.trials.of(name):
                    yield Observation(read(record), {"model": name, "trial": trial.model, "kind": kind})

        self._observe(
            "folders.refused", "{folder}", "Model folders that cannot be served", lambda: [Observation(refused())]
        )
        self._observe("queue.depth", "{query}", "Queries that wait", waiting)
        self._observe("trial.queries", "{query}", "Queries of a trial", lambda: trials(lambda one: one.queries))
        self._observe("trial.failures", "{query}", "Failures of a trial", lambda: trials(lambda one: one.failures))
        self._observe(
            "trial.difference", "1", "Mean difference of curves", lambda: trials(lambda one: one.mean_difference)
        )

    def _histogram(self, name: str, unit: str, description: str, buckets: Iterable[float]) -> metrics.Histogram:
        return self._meter.create_histogram(
            _PREFIX + name, unit, description, explicit_bucket_boundaries_advisory=[float(bound) for bound in buckets]
        )

    def _observe(self, name: str, unit: str, description: str, read: Callable[[], Iterable[Observation]]) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return read()

        self._meter.create_observable_gauge(_PREFIX + name, [observe], unit, description)


def _labels(manifest: Manifest) -> dict[str, str | bool]:
    return {"model": manifest.name, "version": manifest.version}
