"""Metrics as text: names, labels, buckets, exemplars; read back by Prometheus's own parser where it is there."""

import re
import subprocess

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from predictive_scheduling.openmetrics import render
from tests.programs import needs


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


def test_attributes_that_differ_in_their_signs_alone_are_one_label():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], Resource({"k8s.pod.name": "a", "k8s_pod_name": "b", "1st": "c"}))
    provider.get_meter("m").create_counter("n").add(1)
    text = render(reader.get_metrics_data(), openmetrics=False)
    provider.shutdown()
    assert 'target_info{k8s_pod_name="a;b",_1st="c"} 1' in text.splitlines()


@needs("promtool")
def test_prometheus_reads_it(reader):
    plain = render(reader.get_metrics_data(), openmetrics=False)
    checked = subprocess.run(["promtool", "check", "metrics"], input=plain.encode(), capture_output=True, check=False)
    complaints = checked.stderr.decode() + checked.stdout.decode()
    assert checked.returncode in (0, 3), complaints  # 3: read, and a name is not to its taste
    assert "error" not in complaints, complaints


def test_nothing_measured_is_an_empty_page():
    assert render(None, openmetrics=True) == "# EOF\n"
    assert render(None, openmetrics=False) == ""
