"""What an entry of Envoy's access log tells of its request."""

from types import SimpleNamespace

import grpc.aio
import pytest

from scheduler_service.gateway.access_logs import follow, told_by
from scheduler_service.gateway.budgets import REQUEST_HEADER
from scheduler_service.gateway.envoy_messages import StreamAccessLogsMessage
from scheduler_service.grants import Told


def entry(status=200, counts=None, size=100, flags=None, first=1.0, last=3.0):
    metadata = {} if counts is None else {"predictive_scheduling": {"fields": {
        name: {"number_value": count} for name, count in counts.items()
    }}}  # fmt: skip
    common = {
        "metadata": {"filter_metadata": metadata},
        "response_flags": flags or {},
        "time_to_first_upstream_rx_byte": {"seconds": int(first), "nanos": int(first % 1 * 1e9)},
        "time_to_last_upstream_rx_byte": {"seconds": int(last), "nanos": int(last % 1 * 1e9)},
    }
    response = {"response_code": {"value": status}, "response_body_bytes": size}
    message = StreamAccessLogsMessage(http_logs={"log_entry": [{"common_properties": common, "response": response}]})
    return StreamAccessLogsMessage.FromString(message.SerializeToString()).http_logs.log_entry[0]


class OneMessage:
    """A stream that brings one message."""

    def __init__(self, message):
        self.messages = [message, grpc.aio.EOF]

    async def read(self):
        return self.messages.pop(0)


async def test_entries_that_name_a_grant_are_told_at_the_end_of_their_request():
    told = []
    entries = [
        {"request": {"request_headers": {REQUEST_HEADER: "first"}}, "common_properties": {}},
        {"request": {"request_headers": {REQUEST_HEADER: "second"}},
         "common_properties": {"intermediate_log_entry": True}},
        {"request": {"request_headers": {"other": "third"}}},
    ]  # fmt: skip
    settling = SimpleNamespace(tell=lambda grant, _: told.append(grant))
    await follow(settling, OneMessage(StreamAccessLogsMessage(http_logs={"log_entry": entries})))
    assert told == ["first"]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (entry(counts={"completion_tokens": 21, "reasoning_tokens": 20, "prompt_tokens": 5, "events": 23}),
         Told(21, 20, 5, "", 1.0, 0.1)),
        (entry(counts={"completion_tokens": 21, "prompt_tokens": 5}), Told(21, None, 5, "", 1.0, 0.0)),
        (entry(counts={"completion_tokens": 21, "reasoning_tokens": 0}), Told(21, None, 0, "", 1.0)),
        (entry(counts={"events": 11}, flags={"downstream_connection_termination": True}),
         Told(11, None, 0, "cancelled", 1.0, 0.2)),
        (entry(counts={"events": 11}, flags={"downstream_remote_reset": True}),
         Told(11, None, 0, "cancelled", 1.0, 0.2)),
        (entry(status=503), Told(0, None, 0, "HTTP 503", 1.0)),
        (entry(status=0, size=0), Told(0, None, 0, "HTTP 0", 1.0)),
        (entry(), Told(None, None, 0, "", 1.0)),
        (entry(size=0), Told(0, None, 0, "", 1.0)),
        (entry(counts={"completion_tokens": -4, "events": float("nan")}), Told(None, None, 0, "", 1.0)),
        (entry(counts={"completion_tokens": float("inf"), "prompt_tokens": 1e300}), Told(None, None, 0, "", 1.0)),
    ],
)  # fmt: skip
def test_an_entry_says_what_was_used_and_how_it_ended(found, told):
    assert told_by(found) == told
