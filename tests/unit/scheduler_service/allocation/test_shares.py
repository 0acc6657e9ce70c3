"""Fair shares of a total."""

import pytest

from scheduler_service.allocation.shares import max_min_shares


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="weights"):
        max_min_shares(10, {"a": 5}, {"a": 0})
