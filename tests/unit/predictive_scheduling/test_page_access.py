"""Who may see the pages for operators, and what is told of it."""

import base64
import socket
import time
import urllib.error
import urllib.request

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from predictive_scheduling import metrics_page
from predictive_scheduling.metrics_page import MetricsPage
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


@pytest.fixture
def page():
    found = MetricsPage(InMemoryMetricReader(), "127.0.0.1:0", PageAccess("secret"))
    found.start()
    yield found
    found.stop()


def test_the_metrics_page_asks_for_its_token(page):
    url = f"http://127.0.0.1:{page.port}/metrics"
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(url)
    refused.value.close()
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": "Bearer secret"})) as reply:
        assert reply.status == 200


def test_scrapers_that_trickle_are_cut_off_and_others_get_their_places(page, monkeypatch):
    monkeypatch.setattr(metrics_page, "_SECONDS", 0.3)
    asking = urllib.request.Request(f"http://127.0.0.1:{page.port}/metrics", headers={"Authorization": "Bearer secret"})
    trickling = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(40)]
    try:
        for one in trickling:
            one.settimeout(30)
            assert one.recv(1) == b""  # closed, sooner or later
        for _ in range(100):
            try:
                with urllib.request.urlopen(asking, timeout=30) as reply:
                    assert reply.status == 200
                break
            except OSError:  # a place is given back a moment after its connection is closed
                time.sleep(0.1)
        else:
            pytest.fail("no place was given back")
    finally:
        for one in trickling:
            one.close()
