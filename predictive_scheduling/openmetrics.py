"""Metrics as text that Prometheus scrapes: OpenMetrics 1.0 with exemplars, or the older format without.

Written here since the OpenTelemetry SDK's exporter for Prometheus leaves exemplars out. Names follow OpenTelemetry's
rules for Prometheus: dots become underscores, units are spelled out at the end, counters end in ``_total``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opentelemetry.sdk.metrics.export import Gauge, Histogram, Metric, MetricsData, Sum

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"
_UNITS = {"s": "seconds", "By": "bytes"}


def render(data: MetricsData | None, *, openmetrics: bool) -> str:
    """Return everything that was measured as text."""
    lines: list[str] = []
    for resource in data.resource_metrics if data is not None else ():
        lines += _target(resource.resource.attributes or {}, openmetrics=openmetrics)
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                lines += _family(metric, openmetrics=openmetrics)
    if openmetrics:
        lines.append("# EOF")
    return "".join(f"{line}\n" for line in lines)


def prometheus_name(name: str, unit: str, *, monotonic: bool, gauge: bool) -> str:
    """Return the name under which Prometheus knows an instrument."""
    parts = [re.sub(r"[^a-zA-Z0-9_:]", "_", name)]
    if unit in _UNITS:
        parts.append(_UNITS[unit])
    elif unit == "1" and gauge:
        parts.append("ratio")
    return "_".join(parts) + ("_total" if monotonic else "")


def _target(attributes: Mapping[str, Any], *, openmetrics: bool) -> Iterator[str]:
    """What is measured: the resource, as one line."""
    name, kind = ("target", "info") if openmetrics else ("target_info", "gauge")
    yield f"# TYPE {name} {kind}"
    yield f"target_info{_labels(attributes)} 1"


def _family(metric: Metric, *, openmetrics: bool) -> Iterator[str]:
    data = metric.data
    monotonic = isinstance(data, Sum) and data.is_monotonic
    name = prometheus_name(metric.name, metric.unit or "", monotonic=monotonic, gauge=isinstance(data, Gauge))
    kind = "histogram" if isinstance(data, Histogram) else "counter" if monotonic else "gauge"
    family = name.removesuffix("_total") if openmetrics else name
    yield f"# HELP {family} {_escaped(metric.description or '')}"
    yield f"# TYPE {family} {kind}"
    if openmetrics and metric.unit in _UNITS and not monotonic:
        yield f"# UNIT {family} {_UNITS[metric.unit]}"
    if isinstance(data, (Sum, Gauge)):
        for number in data.data_points:
            exemplar = _exemplar(number.exemplars, openmetrics=openmetrics and monotonic)
            yield f"{name}{_labels(number.attributes or {})} {number.value}{exemplar}"
    elif isinstance(data, Histogram):
        for point in data.data_points:
            yield from _histogram(name, point, openmetrics=openmetrics)


def _histogram(name: str, point: Any, *, openmetrics: bool) -> Iterator[str]:
    bounds = [*point.explicit_bounds, float("inf")]
    below, count = float("-inf"), 0
    for bound, inside in zip(bounds, point.bucket_counts, strict=True):
        count += inside
        edge = "+Inf" if bound == float("inf") else repr(float(bound))
        within = [one for one in point.exemplars if below < one.value <= bound]
        labels = _labels({**point.attributes, "le": edge})
        yield f"{name}_bucket{labels} {count}{_exemplar(within, openmetrics=openmetrics)}"
        below = bound
    yield f"{name}_count{_labels(point.attributes)} {point.count}"
    yield f"{name}_sum{_labels(point.attributes)} {point.sum}"


def _exemplar(exemplars: Iterable[Any], *, openmetrics: bool) -> str:
    """The last exemplar that belongs to a trace."""
    traced = [one for one in exemplars if one.trace_id] if openmetrics else []
    if not traced:
        return ""
    last = max(traced, key=lambda one: one.time_unix_nano)
    labels = {"trace_id": format(last.trace_id, "032x"), "span_id": format(last.span_id, "016x")}
    return f" # {_labels(labels)} {last.value} {last.time_unix_nano / 1e9:.3f}"


def _labels(attributes: Mapping[str, Any]) -> str:
    """Attributes as labels, each once: Prometheus takes no page on which a sample has one twice, or of such a name."""
    if not attributes:
        return ""
    named: dict[str, str] = {}
    for key, value in attributes.items():
        name = re.sub(r"[^a-zA-Z0-9_]|^(?=\d)", "_", key)
        text = _escaped(str(value))
        named[name] = f"{named[name]};{text}" if name in named else text
    return "{" + ",".join(f'{name}="{text}"' for name, text in named.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
