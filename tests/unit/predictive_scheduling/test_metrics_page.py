"""The page that is scraped: its formats, its token, and scrapers that trickle."""

import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from predictive_scheduling import metrics_page
from predictive_scheduling.metrics_page import MetricsPage
from predictive_scheduling.page_access import PageAccess


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


@pytest.mark.parametrize("of", [threading.Thread, threading.Timer])
def test_scrapes_for_which_there_was_no_thread_keep_no_place(page, monkeypatch, of):
    asking = urllib.request.Request(f"http://127.0.0.1:{page.port}/metrics", headers={"Authorization": "Bearer secret"})

    usual = threading.Thread.start

    def start(thread):
        if type(thread) is of:
            raise RuntimeError("can't start new thread")
        usual(thread)

    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", start)
        for _ in range(20):
            with pytest.raises(OSError, match=r"closed|reset"):
                urllib.request.urlopen(asking, timeout=30)
    with urllib.request.urlopen(asking, timeout=30) as reply:
        assert reply.status == 200


@pytest.mark.parametrize(("address", "host"), [("[::1]:0", "[::1]"), (":0", "[::1]"), (":0", "127.0.0.1")])
def test_the_page_is_also_served_by_ipv6(reader, address, host):
    if host == "[::1]" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    page = MetricsPage(reader, address)
    page.start()
    try:
        with urllib.request.urlopen(f"http://{host}:{page.port}/metrics", timeout=30) as reply:
            assert reply.status == 200
    finally:
        page.stop()


def test_the_page_answers_in_both_formats_and_nothing_else(reader):
    page = MetricsPage(reader, "127.0.0.1:0")
    page.start()
    try:
        url = f"http://127.0.0.1:{page.port}"
        wanted = urllib.request.Request(
            f"{url}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        )
        with urllib.request.urlopen(wanted) as reply:
            assert reply.headers["Content-Type"].startswith("application/openmetrics-text")
            assert reply.read().decode().endswith("# EOF\n")
        with urllib.request.urlopen(f"{url}/metrics?x=1") as reply:
            assert reply.headers["Content-Type"].startswith("text/plain")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/")
    finally:
        page.stop()
