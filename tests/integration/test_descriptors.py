"""A server that runs out of file descriptors says so in few words, and serves again once some are free."""

import asyncio
import errno
import os
import resource
import socket
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack

import aiohttp
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from predictive_scheduling import AsyncSchedulerClient, metrics_page
from predictive_scheduling.listening import Scarcity, listening
from predictive_scheduling.metrics_page import MetricsPage
from predictive_scheduling_cli.demo.services import free_address
from tests.integration.running import scheduler
from tests.integration.test_openai_front import MESSAGES
from tests.integration.test_scheduler import thinker
from tests.standins.backend import ScriptedBackend
from tests.standins.tgi import TgiStandIn
from tests.waiting import eventually

TOO_MANY = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def few_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def place(address):
    host, _, port = address.rpartition(":")
    return host, int(port)


def knock(caller, address):
    """Connect without waiting: a queue that is full takes nobody in."""
    caller.setblocking(False)
    assert caller.connect_ex(place(address)) in (0, errno.EINPROGRESS)


async def test_a_scheduler_without_descriptors_writes_a_line_and_recovers(tmp_path):
    """A hundred connections to each of its ports, of 64 descriptors; afterwards everything answers again."""
    addresses = {name: free_address() for name in ("listen", "http_listen", "status_listen", "metrics_listen")}
    flags = [f"--{name.replace('_', '-')}={address}" for name, address in addresses.items()]
    log = tmp_path / "log"
    async with TgiStandIn(thinker) as tgi:
        with log.open("wb") as written:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "predictive_scheduling_cli", "scheduler", "--backend=tgi", "--template=demo",
                f"--backend-url={tgi.url}", *flags, stdout=written, stderr=written, preexec_fn=few_descriptors,
            )  # fmt: skip
        try:
            await eventually(lambda: "status page on port" in log.read_text())
            began = time.monotonic()
            with ExitStack() as held:
                for address in addresses.values():
                    for _ in range(100):
                        knock(held.enter_context(socket.socket()), address)
                await eventually(lambda: "new connections have to wait" in log.read_text())
                await asyncio.sleep(3.0)  # asyncio tries once a second, and used to double its tries
                told = log.read_text().count("new connections have to wait")
                # One of the loop and one of the metrics page in ten seconds.
                assert told <= 2 * (1 + (time.monotonic() - began) // 10)
            assert "Traceback" not in log.read_text()
            async with aiohttp.ClientSession() as session, AsyncSchedulerClient(addresses["listen"]) as client:
                assert (await client.complete("q")).answer
                url = f"http://{addresses['http_listen']}/v1/chat/completions"
                async with session.post(url, json={"messages": MESSAGES}) as response:
                    assert response.status == 200
                for page in (f"{addresses['status_listen']}/", f"{addresses['metrics_listen']}/metrics"):
                    async with session.get(f"http://{page}") as response:
                        assert response.status == 200
        finally:
            process.kill()
            await process.wait()


class FailingFirst(socket.socket):
    """Its first accepts find no descriptor."""

    failures = 3

    def accept(self):
        if self.failures:
            self.failures -= 1
            raise TOO_MANY
        return super().accept()


def test_the_metrics_page_rests_while_there_is_no_descriptor(monkeypatch):
    """It used to try again at once, for ever, on a core of its own."""
    rests, rested = [], threading.Event()

    def sleep(seconds):
        rests.append(seconds)
        rested.set()

    monkeypatch.setattr(metrics_page.time, "sleep", sleep)
    reader = InMemoryMetricReader()
    MeterProvider([reader])
    page = MetricsPage(reader, "127.0.0.1:0")
    page.start()
    try:
        page._server.socket = FailingFirst(fileno=page._server.socket.detach())
        with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/metrics", timeout=60) as reply:
            assert reply.status == 200
    finally:
        page.stop()
    assert rests == [metrics_page.REST_SECONDS] * 3


def test_it_is_told_once_in_ten_seconds(caplog):
    scarcity = Scarcity()
    for now in (0.0, 1.0, 9.9, 10.0, 19.9):
        scarcity.tell(TOO_MANY, now)
    assert [record.message.partition(" (")[0] for record in caplog.records] == [
        "new connections have to wait: Too many open files"
    ] * 2


async def test_other_errors_of_the_loop_are_told_as_before(caplog):
    loop = asyncio.get_running_loop()
    Scarcity().watch(loop)
    loop.call_soon(lambda: 1 / 0)
    await eventually(lambda: "ZeroDivisionError" in caplog.text)


@pytest.mark.parametrize(("address", "families"), [("127.0.0.1:0", [4]), ("[::1]:0", [6]), (":0", [4, 6])])
def test_addresses_are_read_as_written(address, families):
    hosts = {4: "127.0.0.1", 6: "::1"}
    if 6 in families and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with listening(address) as server:
        for family in families:
            socket.create_connection((hosts[family], server.getsockname()[1])).close()


async def test_a_scheduler_that_cannot_start_leaves_no_server_behind():
    """Its gRPC server listens before the HTTP front does; an address that is taken ends both."""
    taken, grpc_address = socket.create_server(("127.0.0.1", 0)), free_address()
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    with taken, pytest.RaisesGroup(pytest.RaisesGroup(OSError)):
        async with scheduler(ScriptedBackend(thinker), listen=grpc_address, http_listen=address):
            pass
    with socket.socket() as caller:
        assert caller.connect_ex(place(grpc_address)) == errno.ECONNREFUSED
