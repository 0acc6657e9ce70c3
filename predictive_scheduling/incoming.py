"""The trace context that a caller sends, read from headers or metadata: whatever they say, it is no error of ours."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from opentelemetry import propagate
from opentelemetry.context import Context

# It warns of every malformed member: anybody could fill the log.
logging.getLogger("opentelemetry.baggage.propagation").setLevel(logging.ERROR)


def context_of(headers: Iterable[tuple[str, str | bytes]]) -> Context:
    """Return the context of ``headers``. Names have no case (Go writes ``Traceparent``); what is not ASCII is left."""
    return propagate.extract(
        {name.lower(): value for name, value in headers if isinstance(value, str) and value.isascii()}
    )
