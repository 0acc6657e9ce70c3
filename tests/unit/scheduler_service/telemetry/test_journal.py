"""The journal: what became of the last requests, and the figures of the last minute."""

from dataclasses import replace

import pytest

from scheduler_service.domain import OverloadedError, Prediction, PredictionOutcome
from scheduler_service.telemetry.journal import Journal, Stage
from tests.builders.jobs import JOB, given, used


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def job(name, tenant=""):
    return replace(JOB, request_id=name, tenant=tenant)


def allocated(journal, name, tenant="", **fields):
    request = job(name, tenant)
    journal.allocated(request, given(request, **fields))
    return request


def test_a_request_is_remembered_with_its_usage_or_its_error(clock):
    journal = Journal(clock=clock)
    done, failed = allocated(journal, "done"), allocated(journal, "failed")
    journal.finished(done, given(done), used(20))
    journal.failed(failed, given(failed), "cancelled")
    assert journal.find("done").usage.reasoning_tokens == 20
    assert (journal.find("failed").error, journal.find("failed").usage) == ("cancelled", None)
    assert journal.failures == {"cancelled": 1}
    assert journal.find("nobody") is None


def test_prompts_are_kept_only_where_that_is_wanted(clock):
    for keep, prompt in ((False, ""), (True, "prompt")):
        journal = Journal(keep_prompts=keep, clock=clock)
        allocated(journal, "a")
        assert journal.find("a").prompt == prompt


def test_a_tenant_sees_its_own_and_who_sees_all_the_newest_of_an_id(clock):
    journal = Journal(clock=clock)
    allocated(journal, "a", "gold", budget_tokens=1)
    allocated(journal, "a", "free", budget_tokens=2)
    assert journal.find("a", "gold").allocation.budget_tokens == 1
    assert journal.find("a").tenant == "free"
    assert journal.find("a", "other") is None
    assert [entry.tenant for entry in journal.recent(9)] == ["free", "gold"]
    assert [entry.tenant for entry in journal.recent(9, "gold")] == ["gold"]
    assert len(journal.recent(1)) == 1


def test_a_failure_of_what_is_not_remembered_is_counted(clock):
    journal = Journal(keep=1, clock=clock)
    first = allocated(journal, "first")
    allocated(journal, "second")
    journal.failed(first, given(first), "x")
    journal.finished(first, given(first), used())
    journal.failed(job("never"), None, "x")
    journal.rejected(job("never"), OverloadedError("full", 1.0))
    assert (journal.failures, journal.rejections) == ({"x": 2}, {"OverloadedError": 1})
    assert journal.find("second").error == ""


def test_the_summary_is_of_the_last_minute_only(clock):
    journal = Journal(clock=clock)
    for at, tokens in ((100, 1000), (150, 10), (200, 30)):
        clock.now = at
        request = allocated(journal, str(at), budget_tokens=tokens)
        journal.finished(request, given(request), used(tokens))
    summary = journal.summary()
    assert (summary.period, summary.requests_per_second) == (60, 2 / 60)
    assert (summary.budget, summary.used) == (20, 20)
    assert summary.tokens_per_second == (10 + 5 + 30 + 5) / 60


def test_a_journal_that_has_just_begun_counts_the_time_that_it_knows(clock):
    journal = Journal(clock=clock)
    assert journal.summary().period == 1
    clock.now += 10
    allocated(journal, "a")
    assert (journal.summary().period, journal.summary().requests_per_second) == (10, 0.1)


def test_where_more_came_than_are_kept_the_period_is_theirs(clock):
    journal = Journal(keep=5, clock=clock)
    clock.now += 1000
    for at in range(20):
        clock.now += 1
        allocated(journal, str(at))
    assert journal.summary().period == 4
    assert journal.summary().requests_per_second == 5 / 4


def test_means_of_accuracy_are_of_predicted_requests(clock):
    journal = Journal(clock=clock)
    allocated(journal, "a", expected_accuracy=0.8)
    allocated(journal, "b", expected_accuracy=0.0, prediction=Prediction(PredictionOutcome.TIMEOUT))
    summary = journal.summary()
    assert (summary.coverage, summary.expected_accuracy) == (0.5, 0.8)


def test_stages_have_their_median_and_their_slowest_but_for_one_in_a_hundred(clock):
    journal = Journal(clock=clock)
    for at in range(1, 201):
        allocated(journal, str(at), prediction_seconds=at / 200)
    stages = {stage.name: stage for stage in journal.summary().stages}
    assert stages["prediction"] == Stage("prediction", 0.5, 0.99)
    assert "total" not in stages  # nothing has finished


def test_added_time_is_that_of_scheduling():
    waited = given(window_wait_seconds=1.0, prediction_seconds=0.5, allocation_seconds=0.25)
    assert waited.added_seconds == 1.75
    assert replace(waited, visible_seconds=0.125).added_seconds == 0.125
