"""Telemetry is off until it is told where to send, keeps to the standard variables, and never holds anybody up."""

import logging

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased

from predictive_scheduling import telemetry

NOBODY = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}


def switched_on(environ, **options):
    reporting = telemetry.from_environment("x", "1", environ, **options)
    on = (
        isinstance(reporting.tracers, TracerProvider),
        isinstance(reporting.meters, MeterProvider),
        reporting.log_handler is not None,
    )
    return reporting, on


def test_everything_is_off_without_an_endpoint_and_with_the_sdk_disabled():
    assert switched_on({})[1] == (False, False, False)
    assert switched_on({**NOBODY, "OTEL_SDK_DISABLED": "true"})[1] == (False, False, False)


@pytest.fixture
def quiet(monkeypatch):
    """The exporters read the process's environment; nobody listens there, so they give up soon."""
    for name, value in NOBODY.items():
        monkeypatch.setenv(name, value)
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_an_endpoint_switches_all_signals_on_and_a_dead_one_holds_nobody_up(quiet, protocol):
    reporting, on = switched_on({**NOBODY, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
    assert on == (True, True, True)
    assert logging.getLogger().handlers.count(reporting.log_handler) == 1
    tracer = reporting.tracers.get_tracer("t")
    counter = reporting.meters.get_meter("t").create_counter("c")
    for _ in range(
        3000
    ):  # more than the queue of spans holds; were each to wait for its export, the test would time out
        with tracer.start_as_current_span("s"):
            counter.add(1)
    reporting.shut_down()


def test_signals_are_switched_on_and_off_one_by_one(quiet):
    only_traces = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}
    reporting, on = switched_on(only_traces)
    assert on == (True, False, False)
    reporting.shut_down()
    off = {**NOBODY, "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "none"}
    assert switched_on(off)[1] == (False, False, False)


def test_a_page_to_scrape_needs_no_endpoint():
    reporting, on = switched_on({}, scraped=True)
    assert on == (False, True, False)
    assert reporting.scraped is not None


def test_a_protocol_nobody_speaks_is_named():
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_PROTOCOL"):
        telemetry.from_environment("x", "1", {**NOBODY, "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"})


def test_a_variable_that_is_empty_is_as_one_that_is_not_there(quiet):
    empty = {"OTEL_SERVICE_NAME": "", "OTEL_EXPORTER_OTLP_PROTOCOL": "", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ""}
    reporting, on = switched_on({**NOBODY, **empty})
    assert on == (True, True, True)
    assert reporting.tracers.resource.attributes["service.name"] == "x"
    reporting.shut_down()


def test_the_sampler_is_the_standard_one(quiet, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.0")
    reporting, _ = switched_on({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"})
    assert isinstance(reporting.tracers.sampler, ParentBased)
    with reporting.tracers.get_tracer("t").start_as_current_span("s") as span:
        assert not span.is_recording()
    reporting.shut_down()
