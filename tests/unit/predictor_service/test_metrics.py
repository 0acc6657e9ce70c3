"""What the predictor measures of calls and batches, and of its queues and trials whenever metrics are collected."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from predictive_scheduling import semconv
from predictor_service.artifact import read_manifest
from predictor_service.batching.batcher import Predicted
from predictor_service.inputs.features import Query
from predictor_service.metrics import PredictorMetrics
from predictor_service.model import BatchResult
from predictor_service.predictions import Answer
from predictor_service.settings import SHIPPED_MODELS
from predictor_service.trials import Trial, Trials

MANIFEST = read_manifest(SHIPPED_MODELS / "demo-text")
OWN = {"model": MANIFEST.name, "version": MANIFEST.version}
RESULT = BatchResult(np.zeros((3, 16), np.float32), None, 0.25, 0.5, np.zeros(3, np.int8))


@pytest.fixture
def measured():
    """The metrics, and what reads them: attributes and value of a metric's points, of a histogram the sum."""
    reader = InMemoryMetricReader()

    def points(name):
        return [
            (dict(point.attributes), point.value if hasattr(point, "value") else point.sum)
            for scopes in reader.get_metrics_data().resource_metrics
            for scope in scopes.scope_metrics
            for metric in scope.metrics
            if metric.name == f"{semconv.OWN}predictor.{name}"
            for point in metric.data.data_points
        ]

    return PredictorMetrics(MeterProvider([reader])), points


def test_queries_are_counted_by_model_and_by_whether_a_canary_answered(measured):
    metrics, points = measured
    for canary, queries in ((False, 2), (False, 3), (True, 1)):
        metrics.answered(Answer(MANIFEST, Predicted(RESULT, 0.125), canary), queries)
    assert points("queries") == [({**OWN, "canary": False}, 5), ({**OWN, "canary": True}, 1)]
    assert points("queue.duration") == [(OWN, 0.375)]


def test_abstentions_are_counted_by_reason(measured):
    metrics, points = measured
    metrics.answered(Answer(MANIFEST, Predicted(RESULT, 0.125)), 3)
    assert points("abstentions") == []
    result = replace(RESULT, abstained=np.array([1, 0, 1, 2], np.int8))
    for _ in range(2):
        metrics.answered(Answer(MANIFEST, Predicted(result, 0.125)), 4)
    by_reason = {labels.pop("reason"): (labels, count) for labels, count in points("abstentions")}
    assert by_reason == {"unfamiliar": (OWN, 4), "not_finite": (OWN, 2)}


def test_a_batch_is_measured_once_with_its_times(measured):
    metrics, points = measured
    metrics.ran(MANIFEST, RESULT)
    assert points("batch.size") == [(OWN, 3)]
    assert (points("tokenize.duration"), points("inference.duration")) == ([(OWN, 0.25)], [(OWN, 0.5)])


def test_queues_and_trials_are_read_when_metrics_are(measured):
    metrics, points = measured
    batcher, refused = SimpleNamespace(waiting=4), [0]
    trials = Trials(shadow={"a": Trial("b", 1.0), "gone": Trial("b", 1.0)})
    metrics.watch(SimpleNamespace(batchers={"a": batcher}, trials=trials), lambda: refused[0])
    assert points("queue.depth") == [({"model": "a"}, 4)]
    _, record = trials.find("shadow", "a", [Query("q")])
    record.answered(3, 0.5)
    record.failures, batcher.waiting, refused[0] = 2, 0, 1
    trial = {"model": "a", "trial": "b", "kind": "shadow"}
    assert (points("trial.queries"), points("trial.failures")) == ([(trial, 3)], [(trial, 2)])
    assert (points("queue.depth"), points("folders.refused")) == ([({"model": "a"}, 0)], [({}, 1)])
