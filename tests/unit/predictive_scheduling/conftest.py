"""Metrics that the tests of formats and of the page read."""

import pytest
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider


@pytest.fixture
def reader():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], Resource({"service.name": 'a "quoted" name'}))
    meter = provider.get_meter("m")
    duration = meter.create_histogram("a.duration", "s", "How long", explicit_bucket_boundaries_advisory=[0.1, 1.0])
    with TracerProvider().get_tracer("t").start_as_current_span("s"):
        for seconds in (0.05, 0.5, 0.7, 3.0):
            duration.record(seconds, {"kind": 'x"y\\z\n'})
        meter.create_counter("a.requests", "{request}", "How many").add(3, {"tenant": "t"})
    meter.create_up_down_counter("a.open").add(-2)
    meter.create_observable_gauge("a.share", [lambda _: [Observation(0.25)]], "1", "What share")
    yield reader
    provider.shutdown()
