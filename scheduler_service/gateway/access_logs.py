"""Envoy's access log, read for what requests used: an entry for each that ended, in whatever way.

A Lua filter beside the processor (``docs/gateway.md``) writes what a response said into Envoy's dynamic metadata, which
comes with the entry. So no token passes through here, and what was abandoned, failed or retried is told, too.
"""

from __future__ import annotations

from typing import Any

import grpc.aio

from scheduler_service.gateway.budgets import REQUEST_HEADER
from scheduler_service.gateway.envoy_messages import StreamAccessLogsResponse
from scheduler_service.gateway.settling import Settling
from scheduler_service.grants import MOST_TOKENS, Told

NAMESPACE = "predictive_scheduling"


async def follow(settling: Settling, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
    """Settle what the entries of one stream tell, until Envoy ends it."""
    while (message := await context.read()) is not grpc.aio.EOF:
        for entry in message.http_logs.log_entry:
            grant = entry.request.request_headers.get(REQUEST_HEADER)
            if grant and not entry.common_properties.intermediate_log_entry:  # one at its end follows
                settling.tell(grant, told_by(entry))
    return StreamAccessLogsResponse()


def told_by(entry: Any) -> Told:
    """What an entry tells of its request. Counts beyond all engines are none: an engine may write whatever it likes."""
    common, response = entry.common_properties, entry.response
    fields = common.metadata.filter_metadata[NAMESPACE].fields if NAMESPACE in common.metadata.filter_metadata else {}
    numbers = {
        name: int(value.number_value) for name, value in fields.items() if 0 <= value.number_value <= MOST_TOKENS
    }
    completion, status = numbers.get("completion_tokens"), response.response_code.value
    flags = common.response_flags
    cancelled = flags.downstream_connection_termination or flags.downstream_remote_reset
    failure = "" if 200 <= status < 300 else f"HTTP {status}"
    failure = "cancelled" if cancelled else failure
    if completion is None:
        completion = numbers.get("events")
    if completion is None and (failure.startswith("HTTP") or not response.response_body_bytes):
        completion = 0
    first, last = _seconds(common.time_to_first_upstream_rx_byte), _seconds(common.time_to_last_upstream_rx_byte)
    streamed = "events" in numbers and completion is not None and completion > 1 and last > first
    return Told(
        completion,
        numbers.get("reasoning_tokens") or None,
        numbers.get("prompt_tokens", 0),
        failure,
        first,
        (last - first) / (completion - 1) if streamed and completion else 0.0,
    )


def _seconds(duration: Any) -> float:
    return float(duration.seconds + duration.nanos / 1e9)
