"""Laws of the limit of reasoning and answers together."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.api.budget_words import Limit
from scheduler_service.api.intake import within
from scheduler_service.domain import InvalidRequestError, Job


@given(st.integers(1, 1000), st.integers(0, 300), st.integers(0, 300), st.integers(1, 64), st.integers(1, 8))
def test_reasoning_and_answers_together_stay_within_the_limit(limit, floor, more, answer, traces):
    job = Job("id", "q", "", floor, floor + more, traces=traces)
    try:
        limited = within(job, Limit(limit, "max_tokens"), answer, fixed=False)
    except InvalidRequestError:
        assert limit < traces
        return
    assert limited.cap_tokens + limited.answer_tokens * traces <= limit
    assert 1 <= limited.answer_tokens <= answer
    assert 0 <= limited.floor_tokens <= limited.cap_tokens <= job.cap_tokens
