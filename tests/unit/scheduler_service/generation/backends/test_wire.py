"""What servers send, as typed values."""

import pytest

from scheduler_service.generation.backends.wire import ErrorObject, message_of


@pytest.mark.parametrize(
    ("code", "status"),
    [(400, 400), ("422", 422), ("9" * 5000, 500), (10**30, 500), (-1, 500), (7, 500), ("²³", 500), (None, 500)],
)
def test_the_status_of_an_error_event_is_one_of_http(code, status):
    assert ErrorObject(code=code).status == status


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("Model is overloaded", 429),
        ("Request failed during generation: out of memory", 424),
        ("Incomplete generation stream", 500),
        ("Input validation error: too long", 422),
        ("", 422),
    ],
)
def test_the_status_of_tgis_error_event_is_told_by_its_words(message, status):
    assert ErrorObject(message=message, http_status_code=422).status == status


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"no"}}', "no"),
        (b'{"object":"error","message":"no","code":400}', "no"),
        (b'{"detail":"no"}', "no"),
        (b'{"detail":[{"loc":["body"],"msg":"no"},{"msg":"never"}]}', "no; never"),
        (b'{"detail":{"a":1}}', '{"detail":{"a":1}}'),
        (b" no\n", "no"),
    ],
)
def test_the_reason_of_a_refusal_is_found_in_every_servers_body(body, message):
    assert message_of(body) == message
