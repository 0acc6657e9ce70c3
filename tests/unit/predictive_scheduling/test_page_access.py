"""Who may see the pages for operators, and what is told of it."""

import base64

import pytest

from predictive_scheduling.page_access import PageAccess, on_loopback


def basic(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("Bearer secret", True),
        ("bearer secret", True),
        (basic("anybody:secret"), True),
        (basic("secret:"), False),
        ("", False),
        ("Bearer", False),
        ("Bearer wrong", False),
        ("Bearer \udcff", False),
        ("Basic ***", False),
        ("Digest secret", False),
    ],
)
def test_a_page_with_a_token_opens_to_who_brings_it(header, allowed):
    assert PageAccess("secret").allows(header) is allowed
    assert PageAccess("").allows(header)


def test_an_open_page_is_told_as_a_warning_where_others_reach_it(caplog):
    caplog.set_level("INFO")
    PageAccess().tell("the page", "0.0.0.0:80")
    PageAccess().tell("the page", "127.0.0.1:80")
    PageAccess("secret").tell("the page", "0.0.0.0:80")
    assert [(record.levelname, "OPEN" in record.message) for record in caplog.records] == [
        ("WARNING", True), ("INFO", False), ("INFO", False),
    ]  # fmt: skip
    assert "secret" not in caplog.text
    assert "secret" not in repr(PageAccess("secret"))


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        (":1", False),
        ("pod:1", False),
    ],
)
def test_what_is_on_the_loopback(address, own):
    assert on_loopback(address) is own
