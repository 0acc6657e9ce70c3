"""Names of grants: written by schedulers, read from whatever headers say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.gateway.grant_names import GrantName, read, written

NAMES = st.builds(GrantName, st.text("0123456789abcdef", min_size=12, max_size=12), st.integers(1, 10**15 - 1))
WORDS = st.text(st.characters(exclude_categories=["Cs"]))


@given(NAMES, WORDS, WORDS.filter(bool))
def test_a_name_is_read_as_it_was_written_and_is_a_header(name, tenant, request):
    text = written(name, (tenant, request))
    assert read(text) == name
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text


def test_who_reads_logs_finds_tenant_and_request():
    name = GrantName("0123456789ab", 17)
    assert written(name, ("gold", "mine")) == "gold/mine@0123456789ab.17"
    assert written(name, ("", "a@b/c")) == "a%40b%2Fc@0123456789ab.17"


@pytest.mark.parametrize(
    "text",
    [
        "", "gold/mine", "@", "a@0123456789ab", "a@0123456789ab.", "a@0123456789ab.0", "a@0123456789ab.01",
        "a@0123456789ab.-1", "a@0123456789ab.1.2", "a@0123456789AB.1", "a@0123456789abc.1", "a@0123456789a.1",
        "a@b@0123456789ab.1", "a@0123456789ab.1 ", "a@0123456789ab.1\n", "a@0123456789ab.٣",
        "a@127.0.0.1:6379.1", "a@../../etc.1", "a@0123456789ab." + "9" * 400, "x" * 100_000,
    ],
)  # fmt: skip
def test_what_no_scheduler_has_written_names_nothing(text):
    assert read(text) is None


@given(st.text())
def test_whatever_a_header_says_is_a_name_or_none(text):
    name = read(text)
    assert name is None or (len(name.instance) == 12 and 0 < name.number < 10**15)
