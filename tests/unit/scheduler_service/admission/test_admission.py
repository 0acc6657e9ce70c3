"""What admission refuses, in which words, and that a refusal takes no room."""

from dataclasses import replace

import pytest

from scheduler_service.admission.admission import Admission
from scheduler_service.admission.rates import Rate, TenantRates
from scheduler_service.domain import InvalidRequestError, OverloadedError, QuotaExceededError
from tests.builders.jobs import JOB


def job(name, tenant=""):
    return replace(JOB, request_id=name, tenant=tenant)


def refused(admission, error, words, request, now=0.0):
    before = len(admission)
    with pytest.raises(error, match=words) as caught:
        admission.enter(request, now)
    assert len(admission) == before
    return caught.value


def test_each_limit_refuses_by_its_name_and_says_when_to_come_back():
    requests, tokens, tenants = Admission(1), Admission(9, 100), Admission(9, 0, 1)
    for admission in (requests, tokens, tenants):
        admission.enter(job("a"), 0.0)
    assert refused(requests, OverloadedError, "1 requests are", job("b")).retry_seconds > 0
    assert refused(tokens, OverloadedError, "64 tokens are", job("b")).retry_seconds > 0
    assert refused(tenants, QuotaExceededError, "1 requests .* quota", job("b")).tenant == ""
    tenants.enter(job("b", "other"), 0.0)


def test_an_id_is_in_flight_once_for_each_tenant():
    admission = Admission(9)
    admission.enter(job("a"), 0.0)
    refused(admission, InvalidRequestError, "job.request_id", job("a"))
    assert job("a").key in admission
    assert job("a", "other").key not in admission
    admission.enter(job("a", "other"), 0.0)
    assert len(admission) == 2


def test_who_leaves_makes_room_and_cannot_leave_twice():
    admission = Admission(1, 64, 1)
    admission.enter(job("a"), 0.0)
    admission.leave(job("a"))
    with pytest.raises(KeyError):
        admission.leave(job("a"))
    admission.enter(job("b"), 0.0)


def test_a_tenant_that_comes_too_fast_is_told_how_long_to_wait():
    admission = Admission(99, rates=TenantRates(Rate(2.0, 1.0), Rate(0, 1)))
    for name in "ab":
        admission.enter(job(name, "fast"), 0.0)
    error = refused(admission, QuotaExceededError, "fast", job("c", "fast"))
    admission.enter(job("c", "fast"), error.retry_seconds + 0.01)
