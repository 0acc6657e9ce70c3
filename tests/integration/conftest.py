"""Fixtures of several integration tests."""

import pytest

from tests.builders.certificates import Authority


@pytest.fixture
def authority(tmp_path):
    """Issues certificates, in the test's own folder."""
    return Authority(tmp_path)
