"""What a backend is configured with and tells of itself."""

from scheduler_service.domain import BackendUnavailableError
from scheduler_service.generation.backends.base import BackendConfiguration, EndpointBusyError


def test_the_token_is_not_shown_with_the_configuration():
    assert "hush" not in repr(BackendConfiguration("tgi", ("http://h:1",), token="hush"))


def test_a_server_without_room_is_unavailable_and_says_when_to_come_back():
    error = EndpointBusyError("is full", 7.0, insists=True)
    assert isinstance(error, BackendUnavailableError)
    assert (str(error), error.retry_seconds, error.insists) == ("is full", 7.0, True)
