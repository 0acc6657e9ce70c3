"""How servers' faults are translated: what callers are told, what the log gets, what neither gets."""

import logging
from datetime import UTC, datetime

import pytest

from scheduler_service.domain import BackendUnavailableError, PreconditionError
from scheduler_service.generation.backends.base import EndpointBusyError
from scheduler_service.generation.backends.faults import (
    LogLimit,
    ServerFault,
    ServerFaults,
    http_error,
    retry_seconds,
    tidy,
    without,
)

NOON = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        ("1.5", 1.5),
        ("0", 0.1),
        ("-4", 0.1),
        ("86400", 60.0),
        ("1e999", None),
        ("nan", None),
        ("soon", None),
        ("Fri, 01 May 2026 12:00:09 GMT", 9.0),
        ("Fri, 01 May 2026 11:00:00 GMT", 0.1),
        ("Fri, 01 May 9999 12:00:09 GMT", 60.0),
        ("Fri, 99 May 2026 12:00:09 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_bounded(header, seconds):
    assert retry_seconds(header, NOON) == seconds


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refusals_of_the_request_are_told_without_addresses_and_in_one_short_line(status):
    error = http_error(status, "too long\nsee http://u:p@10.0.0.3:8080/docs or 10.0.0.3:99 " + "x" * 9999)
    assert isinstance(error, PreconditionError)
    assert error.description.startswith("the backend refused it: too long see (address) or (address) x")
    assert len(error.description) < 350


@pytest.mark.parametrize(
    ("status", "after", "seconds", "busy", "insists"),
    [
        (429, None, 1.0, True, False),
        (503, 7.0, 7.0, True, True),
        (500, None, 5.0, False, False),
        (500, 3.0, 3.0, False, True),
        (404, None, 5.0, False, False),
    ],
)
def test_what_may_pass_says_when_to_come_back(status, after, seconds, busy, insists):
    error = http_error(status, "secret words", after)
    assert isinstance(error, ServerFault)
    assert (error.what, error.retry_seconds) == (f"answered HTTP {status}", seconds)
    assert (error.busy, error.insists) == (busy, insists)


def test_a_redirect_says_that_it_is_one():
    assert "redirect" in str(http_error(307, ""))


def test_a_message_is_one_line_of_printable_characters():
    assert tidy("a\n\tb\x00\x1b[31mc \ud800") == "a b [31mc"
    assert len(tidy("x" * 10_000)) == 300


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("CUDA out of memory", True),
        ("invalid input: 'my password is hunter2'", False),
        ("invalid input: 'word is hunter2 a", False),
    ],
)
def test_a_message_that_quotes_the_prompt_is_left_out(message, kept):
    assert (without(message, "Question: my password is hunter2 and so on") == message) is kept


def test_a_failure_is_told_in_our_words_and_logged_with_the_servers(caplog):
    faults = ServerFaults("http://h:1")
    with caplog.at_level(logging.WARNING), pytest.raises(BackendUnavailableError) as caught:
        with faults.translated("a prompt that is quite long"):
            raise ServerFault("answered HTTP 500", "worker 3 died\nof hunger", retry_seconds=2.0)
    assert str(caught.value) == "the LLM server answered HTTP 500"
    assert caught.value.retry_seconds == 2.0
    assert not isinstance(caught.value, EndpointBusyError)
    assert caplog.messages == ["the LLM server at http://h:1 answered HTTP 500: worker 3 died of hunger"]


def test_what_no_server_did_is_not_translated():
    with pytest.raises(AttributeError), ServerFaults("http://h:1").translated():
        raise AttributeError("a bug of ours")


def test_repeated_failures_are_counted_instead_of_written():
    limit = LogLimit(most=2, seconds=10.0)
    assert [limit.admit(float(now)) for now in range(5)] == [0, 0, None, None, None]
    assert [limit.admit(now) for now in (10.5, 11.0, 12.0)] == [3, 0, None]
