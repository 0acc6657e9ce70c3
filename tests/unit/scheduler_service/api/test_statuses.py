"""Every error has a row of the table, and says what its callers need: fields, quota, when to come back."""

import inspect

import grpc
import pytest

from scheduler_service import domain
from scheduler_service.api.statuses import TABLE, status_of
from scheduler_service.domain import (
    BackendUnavailableError,
    DrainingError,
    InvalidRequestError,
    OverloadedError,
    QuotaExceededError,
    SchedulingError,
    SlowReaderError,
    UnknownModelError,
)

ERRORS = [
    found
    for _, found in inspect.getmembers(domain, inspect.isclass)
    if issubclass(found, SchedulingError) and found is not SchedulingError
]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_of_ours_has_a_code_that_blames_no_fault_of_ours(kind):
    row = next(TABLE[above] for above in kind.__mro__ if above in TABLE)
    assert row.code is not grpc.StatusCode.INTERNAL
    assert 400 <= row.http < 600 != 500


def test_an_error_has_the_row_of_the_nearest_class_above_it():
    assert status_of(UnknownModelError("job.model", "is not served")).row.http == 404
    assert status_of(DrainingError("shutting down")).row is TABLE[BackendUnavailableError]


def test_a_wrong_request_names_its_fields_and_may_not_be_tried_again():
    status = status_of(InvalidRequestError("a", "is wrong", [("b", "too")]))
    assert status.fields == (("a", "is wrong"), ("b", "too"))
    assert status.retry_seconds is None


@pytest.mark.parametrize("error", [OverloadedError("full", 2.0), BackendUnavailableError("away", 2.0)])
def test_what_passes_says_when_to_come_back(error):
    assert status_of(error).retry_seconds == 2.0


def test_a_quota_names_its_tenant():
    status = status_of(QuotaExceededError("gold", "too fast", 3.0))
    assert status.quota == ("tenant:gold", "too fast")
    assert (status.message, status.retry_seconds) == ("tenant:gold: too fast", 3.0)


def test_others_say_what_they_say():
    status = status_of(SlowReaderError("nobody read on"))
    assert (status.message, status.retry_seconds, status.quota) == ("nobody read on", None, None)


def test_a_fault_of_ours_tells_callers_nothing():
    status = status_of(KeyError("password"))
    assert status.row.code is grpc.StatusCode.INTERNAL
    assert "password" not in status.message
