"""What a request's span says, and that one that has ended is left alone."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from predictive_scheduling import semconv
from scheduler_service.domain import BudgetLimit, FinishReason, OverloadedError
from scheduler_service.telemetry.spans import SpanObserver
from tests.builders.jobs import JOB, given, used


@pytest.fixture
def spanned():
    """Does something within a span; returns that span."""
    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))

    def run(*steps):
        with provider.get_tracer("t").start_as_current_span("request"):
            for step in steps:
                step(SpanObserver())
        (span,) = memory.get_finished_spans()
        return span

    return run


def test_an_allocation_is_told_with_its_reason_and_its_curve(spanned):
    allocation = given(limited_by=BudgetLimit.PRICE, explanation="32 tokens", price=0.01)
    span = spanned(lambda observer: observer.allocated(JOB, allocation))
    assert span.attributes[semconv.BUDGET] == 32
    assert span.attributes[semconv.PREDICTION_OUTCOME] == "fresh"
    (event,) = span.events
    assert (event.attributes[semconv.LIMITED_BY], event.attributes[semconv.EXPLANATION]) == ("price", "32 tokens")
    assert event.attributes[semconv.CURVE] == (0.1, 0.4, 0.6, 0.7)
    assert event.attributes[semconv.POINTS] == (16, 32, 48, 64)
    assert not any("prompt" in str(value) for value in span.attributes.values())


@pytest.mark.parametrize(("reason", "events"), [(FinishReason.NATURAL, []), (FinishReason.FORCED, ["forced answer"])])
def test_usage_is_told_and_a_forced_answer_is_an_event(spanned, reason, events):
    span = spanned(lambda observer: observer.finished(JOB, given(), used(20, finish_reason=reason)))
    assert span.attributes[semconv.USED] == 20
    assert span.attributes[semconv.GEN_AI_OUTPUT_TOKENS] == 25
    assert [event.name for event in span.events] == events


def test_refusals_and_failures_say_their_kind(spanned):
    span = spanned(
        lambda observer: observer.rejected(JOB, OverloadedError("full", 1.0)),
        lambda observer: observer.failed(JOB, None, "cancelled"),
    )
    assert span.events[0].attributes[semconv.ERROR_TYPE] == "OverloadedError"
    assert span.attributes[semconv.ERROR_TYPE] == "cancelled"


def test_without_a_span_nothing_is_said():
    observer = SpanObserver()
    observer.rejected(JOB, OverloadedError("full", 1.0))
    observer.allocated(JOB, given())
    observer.finished(JOB, given(), used())
    observer.failed(JOB, given(), "cancelled")
