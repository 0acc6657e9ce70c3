"""What requests count in metrics."""

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from scheduler_service.allocation.curve import Curve
from scheduler_service.domain import Allocation, Job, Prediction, PredictionOutcome
from scheduler_service.telemetry.metrics import MetricsObserver


def sums(reader):
    metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    return {metric.name: sum(getattr(point, "value", 0) for point in metric.data.data_points) for metric in metrics}


def test_tokens_given_are_those_that_the_ledger_reserves():
    """Budgets that are not expected to be used whole are no overspending."""
    reader = InMemoryMetricReader()
    observer = MetricsObserver(MeterProvider([reader]), "m", "tgi")
    curve = Curve((64, 128), (0.2, 0.6), (30.0, 40.0))
    prediction = Prediction(PredictionOutcome.FRESH, curve, "p@1")
    observer.allocated(
        Job("a", "?", "", 0, 256),
        Allocation("a", 128, 48, 8, 0, 256, "price", prediction, 0.6, 0.1, 40.0, 1),
    )
    found = sums(reader)
    assert found["predictive_scheduling.budget.given"] == 40.0
    assert found["predictive_scheduling.budget.baseline"] == 48
