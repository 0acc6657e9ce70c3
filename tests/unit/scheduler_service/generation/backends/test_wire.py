"""What servers send, as typed values."""

import pytest

from scheduler_service.generation.backends.wire import ErrorObject


@pytest.mark.parametrize(
    ("code", "status"),
    [(400, 400), ("422", 422), ("9" * 5000, 500), (10**30, 500), (-1, 500), (7, 500), ("²³", 500), (None, 500)],
)
def test_the_status_of_an_error_event_is_one_of_http(code, status):
    assert ErrorObject(code=code).status == status
