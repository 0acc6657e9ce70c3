"""The words of the scheduler: what errors say, what tells requests apart, and which sampling is passed on."""

from dataclasses import replace

import pytest

from scheduler_service.domain import InvalidRequestError, QuotaExceededError, Sampling
from tests.builders.jobs import JOB


def test_a_request_with_several_faults_names_each_field():
    error = InvalidRequestError("job.prompt", "is empty", [("job.traces", "must be 8 or fewer")])
    assert str(error) == "job.prompt: is empty; job.traces: must be 8 or fewer"
    assert error.broken == (("job.prompt", "is empty"), ("job.traces", "must be 8 or fewer"))


def test_a_quota_names_whose_it_is():
    assert str(QuotaExceededError("gold", "too fast", 2.0)) == "tenant 'gold': too fast"


def test_only_sampling_that_is_set_is_given_and_zero_is_set():
    assert Sampling().given() == {}
    assert Sampling(temperature=0.0, seed=0).given() == {"temperature": 0.0, "seed": 0}


def test_the_same_id_of_two_tenants_is_two_requests():
    assert replace(JOB, tenant="a").key != replace(JOB, tenant="b").key


def test_what_was_decided_cannot_be_changed():
    with pytest.raises(AttributeError):
        JOB.cap_tokens = 1
