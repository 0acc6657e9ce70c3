"""What is measured of requests and of the scheduler's state, and how many tenants are told apart."""

from dataclasses import replace

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from predictive_scheduling import semconv
from scheduler_service.admission.admission import Admission
from scheduler_service.allocation.curve import Curve
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.domain import Allocation, FinishReason, Job, OverloadedError, Prediction, PredictionOutcome
from scheduler_service.prediction.outcomes import OutcomeBook
from scheduler_service.telemetry.metrics import OTHER, MetricsObserver, Tenants, Watched
from tests.builders.jobs import JOB, given, used


@pytest.fixture
def observer():
    """An observer that tells two tenants apart."""
    reader = InMemoryMetricReader()
    made = MetricsObserver(MeterProvider([reader]), "m", "tgi", tenants=2)
    made.reader = reader
    return made


def points(observer, name):
    """The points of a metric: attributes and value (of a histogram: its sum)."""
    data = observer.reader.get_metrics_data()
    return [
        (dict(point.attributes), getattr(point, "value", None) if hasattr(point, "value") else point.sum)
        for scopes in data.resource_metrics
        for scope in scopes.scope_metrics
        for metric in scope.metrics
        if metric.name in (name, semconv.OWN + name)
        for point in metric.data.data_points
    ]


def test_the_first_tenants_keep_their_names_and_later_ones_share_one():
    tenants = Tenants(2)
    assert [tenants.label(name) for name in "abcdabc"] == ["a", "b", OTHER, OTHER, "a", "b", OTHER]
    assert Tenants(0).label("a") == OTHER


def test_a_stranger_cannot_make_series_without_end(observer):
    for at in range(100):
        observer.finished(replace(JOB, tenant=f"t{at}"), given(), used())
        observer.rejected(replace(JOB, tenant=f"t{at}"), OverloadedError("full", 1.0))
    assert {labels["tenant"]: value for labels, value in points(observer, "requests")} == {
        "t0": 1, "t1": 1, OTHER: 98,
    }  # fmt: skip
    assert len(points(observer, "requests.rejected")) == 3


def test_requests_are_counted_by_how_they_ended(observer):
    observer.finished(JOB, given(), used())
    observer.finished(JOB, given(), used(finish_reason=FinishReason.FORCED))
    observer.finished(JOB, given(), used(finish_reason=FinishReason.ANSWER_LENGTH))
    observer.failed(JOB, None, "cancelled")
    observer.failed(JOB, given(), "BackendUnavailableError")
    assert {labels["result"]: value for labels, value in points(observer, "requests")} == {
        "natural": 1, "forced": 2, "cancelled": 1, "BackendUnavailable": 1,
    }  # fmt: skip


def test_refusals_are_counted_by_why(observer):
    observer.rejected(JOB, OverloadedError("full", 1.0))
    assert points(observer, "requests.rejected") == [({"reason": "Overloaded", "tenant": ""}, 1)]


def test_what_was_given_is_held_against_uniform(observer):
    observer.allocated(JOB, given(budget_tokens=32, baseline_tokens=40, expected_tokens=32.0))
    observer.allocated(JOB, given(budget_tokens=64, baseline_tokens=40, expected_tokens=50.0))
    assert points(observer, "budget.given") == [({"policy": "price"}, 82.0)]
    assert points(observer, "budget.baseline") == [({"policy": "price"}, 80)]


def test_a_negative_benefit_is_counted_and_takes_nothing_from_the_time_saved(observer):
    allocation = given(prediction_seconds=2.0)
    observer.finished(JOB, allocation, used(net_benefit_seconds=-5.0, net_benefit_at_equal_accuracy_seconds=1.0))
    counted = {(labels["against"], labels["sign"]): n for labels, n in points(observer, "net_benefit.requests")}
    # Those that have not come are counted, too: a share of them is zero, not nothing.
    assert counted == {
        ("cap", "negative"): 1,
        ("cap", "positive"): 0,
        ("equal_accuracy", "negative"): 0,
        ("equal_accuracy", "positive"): 1,
    }
    saved = {labels["against"]: value for labels, value in points(observer, "time_saved")}
    assert saved == {"cap": 0.0, "equal_accuracy": 3.0}
    assert points(observer, "time_added") == [({}, 2.0)]


def test_the_state_is_read_when_metrics_are(observer):
    admission, ledger, price = Admission(7), BudgetLedger(40, bank_limit=100), [0.02]
    observer.watch(Watched(admission, ledger, OutcomeBook(), lambda: price[0], lambda: 0.1))
    assert (points(observer, "in_flight"), points(observer, "in_flight.limit")) == ([({}, 0)], [({}, 7)])
    admission.enter(JOB, 0.0)
    ledger.reserve({JOB.key: 30}, 1)
    price[0] = 0.03
    assert points(observer, "in_flight") == points(observer, "pending") == [({}, 1)]
    assert (points(observer, "reserved"), points(observer, "bank")) == ([({}, 30)], [({}, 10)])
    assert points(observer, "price") == [({}, 0.03)]


def test_endpoints_are_measured_by_their_place(observer):
    class Endpoint:
        def __init__(self, outstanding, failures):
            self.outstanding, self.failures = outstanding, failures

    state = Watched(Admission(1), BudgetLedger(1), OutcomeBook(), float, float, [Endpoint(3, 0), Endpoint(0, 5)])
    observer.watch(state)
    assert points(observer, "endpoint.outstanding") == [({"endpoint": "0"}, 3), ({"endpoint": "1"}, 0)]
    assert points(observer, "endpoint.failures") == [({"endpoint": "0"}, 0), ({"endpoint": "1"}, 5)]


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
