"""Metrics as text: names, labels, buckets, exemplars; read back by Prometheus's own parser where it is there."""

import re
import subprocess
import urllib.request

import pytest
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from predictive_scheduling.metrics_page import MetricsPage
from predictive_scheduling.openmetrics import render
from tests.programs import needs


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


def test_names_and_numbers(reader):
    text = render(reader.get_metrics_data(), openmetrics=True)
    lines = text.splitlines()
    assert lines[-1] == "# EOF"
    assert 'target_info{service_name="a \\"quoted\\" name"} 1' in lines
    assert "# TYPE a_duration_seconds histogram" in lines
    assert "# UNIT a_duration_seconds seconds" in lines
    buckets = re.findall(r'a_duration_seconds_bucket\{kind="x\\"y\\\\z\\n",le="(\S+)"\} (\d+)', text)
    assert buckets == [("0.1", "1"), ("1.0", "3"), ("+Inf", "4")]
    assert "# TYPE a_requests counter" in lines
    assert "a_open -2" in lines
    assert "a_share_ratio 0.25" in lines


def test_exemplars_stand_in_their_buckets_and_only_in_openmetrics(reader):
    data = reader.get_metrics_data()
    text = render(data, openmetrics=True)
    exemplars = re.findall(r'le="(\S+)"\} \d+ # \{trace_id="[0-9a-f]{32}",span_id="[0-9a-f]{16}"\} (\S+)', text)
    assert [edge for edge, _ in exemplars] == ["0.1", "1.0", "+Inf"]
    assert all(float(value) <= float(edge.replace("+Inf", "inf")) for edge, value in exemplars)
    assert re.search(r'a_requests_total\{tenant="t"\} 3 # \{trace_id=', text)
    plain = render(data, openmetrics=False)
    assert " # {" not in plain
    assert "# EOF" not in plain
    assert "# TYPE a_requests_total counter" in plain


@needs("promtool")
def test_prometheus_reads_it(reader):
    plain = render(reader.get_metrics_data(), openmetrics=False)
    checked = subprocess.run(["promtool", "check", "metrics"], input=plain.encode(), capture_output=True, check=False)
    complaints = checked.stderr.decode() + checked.stdout.decode()
    assert checked.returncode in (0, 3), complaints  # 3: read, and a name is not to its taste
    assert "error" not in complaints, complaints


def test_the_page_answers_in_both_formats_and_nothing_else(reader):
    page = MetricsPage(reader, "127.0.0.1:0")
    page.start()
    try:
        url = f"http://127.0.0.1:{page.port}"
        wanted = urllib.request.Request(
            f"{url}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        )
        with urllib.request.urlopen(wanted) as reply:
            assert reply.headers["Content-Type"].startswith("application/openmetrics-text")
            assert reply.read().decode().endswith("# EOF\n")
        with urllib.request.urlopen(f"{url}/metrics?x=1") as reply:
            assert reply.headers["Content-Type"].startswith("text/plain")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/")
    finally:
        page.stop()


def test_nothing_measured_is_an_empty_page():
    assert render(None, openmetrics=True) == "# EOF\n"
    assert render(None, openmetrics=False) == ""
