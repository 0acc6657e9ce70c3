"""How requests become jobs: limits of reasoning and answer together, tenants, and draining."""

import pytest

from scheduler_service.api.intake import within
from scheduler_service.domain import InvalidRequestError, Job


def test_a_floor_that_the_caller_asks_for_must_fit():
    with pytest.raises(InvalidRequestError, match="min_reasoning_tokens"):
        within(Job("id", "q", "", 64, 128), 70, 32, fixed=True)
