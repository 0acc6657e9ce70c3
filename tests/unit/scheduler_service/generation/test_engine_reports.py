"""Reports of engines: only what is expected is believed, and all that is remembered is bounded."""

import asyncio
import contextlib
import logging
import socket
import stat
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from predictive_scheduling_vllm import frames
from predictive_scheduling_vllm.destinations import Allowed, parse_address

from scheduler_service.generation import engine_reports
from scheduler_service.generation.engine_reports import EngineReports, NoStateError, parse_listen
from tests.waiting import PATIENCE, eventually

LISTEN = ["unix", "tcp"]


@asynccontextmanager
async def listening(kind, folder, **options):
    """Listen for reports, at a Unix socket in ``folder`` or a free port."""
    reports = EngineReports(f"unix:{folder}/r.sock" if kind == "unix" else "tcp://127.0.0.1:0", **options)
    await reports.start()
    try:
        yield reports
    finally:
        await reports.close()


async def send(reports, *data):
    """Send frames as an engine does; over TCP, each in two pieces."""
    address = parse_address(reports.address)
    if address.kind == "unix":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            for frame in data:
                sender.sendto(frame, address.path)
        return
    _, writer = await asyncio.open_connection(address.host, address.port)
    for frame in data:
        writer.write(frame[:5])
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(frame[5:])
        await writer.drain()
    writer.close()
    await writer.wait_closed()


def state(expected, layers=None, values=(1.0, 2.0)):
    layers = expected.request.layers if layers is None else layers
    payload = np.tile(np.array(values, "<f4"), len(layers)).tobytes()
    return frames.state(expected.request.id, layers, "float32", len(values), 5, payload)


def end(expected, tokens=3):
    return frames.end(expected.request.id, tokens)


def counted(reports, **counts):
    return eventually(lambda: reports.counts == counts)


@pytest.mark.parametrize("kind", LISTEN)
async def test_a_state_comes_to_who_expects_it_and_waste_is_told(kind, tmp_path):
    async with listening(kind, tmp_path) as reports:
        wasted = []
        one, other = reports.expect((16,), wasted.append), reports.expect((16,))
        assert Allowed([reports.address]) is not None
        await send(reports, state(one), end(one, 12))
        found = await asyncio.wait_for(one.state, PATIENCE)
        assert found.values.tolist() == [[1.0, 2.0]]
        await counted(reports, taken=2)
        assert wasted == []
        one.read(10)
        assert wasted == [2]
        assert not other.state.done()


@pytest.mark.parametrize("kind", LISTEN)
async def test_the_end_may_come_after_the_call_was_read_and_never_is_less_than_nothing(kind, tmp_path):
    async with listening(kind, tmp_path) as reports:
        wasted = []
        for read, generated in ((10, 12), (12, 10)):
            expected = reports.expect((), wasted.append)
            expected.read(read)
            await send(reports, end(expected, generated))
        await eventually(lambda: len(wasted) == 2)
        assert sorted(wasted) == [0, 2]
        assert not reports._expected


async def test_the_state_may_come_after_the_end(tmp_path):
    """They are sent by two processes of an engine."""
    async with listening("unix", tmp_path) as reports:
        expected = reports.expect((16,))
        await send(reports, end(expected), state(expected))
        assert (await asyncio.wait_for(expected.state, PATIENCE)).layers == (16,)
        assert not reports._expected


async def test_waste_is_told_once_however_often_the_end_is(tmp_path):
    async with listening("unix", tmp_path) as reports:
        wasted = []
        expected = reports.expect((16,), wasted.append)
        expected.read(1)
        await send(reports, end(expected, 3), end(expected, 9), state(expected), end(expected, 9))
        await counted(reports, taken=3, unexpected=1)
        assert wasted == [2]


@pytest.mark.parametrize("kind", LISTEN)
async def test_a_refusal_is_raised_with_its_reason_where_it_is_waited_for(kind, tmp_path):
    async with listening(kind, tmp_path) as reports:
        waited, other = reports.expect((16,)), reports.expect((16,))
        await send(reports, *(frames.refusal(one.request.id, "layer 16 is not kept") for one in (waited, other)))
        with pytest.raises(NoStateError, match="layer 16"):
            await asyncio.wait_for(waited.state, PATIENCE)
        await counted(reports, refused=2)


async def test_what_comes_first_is_believed_and_not_what_follows(tmp_path):
    async with listening("unix", tmp_path) as reports:
        one, two = reports.expect((16,)), reports.expect((16,))
        await send(reports, state(one), state(one, values=(9.0,)), frames.refusal(one.request.id, "no"))
        await send(reports, frames.refusal(two.request.id, "no"), state(two))
        await eventually(lambda: reports.counts.total() == 4)
        assert (await one.state).values.tolist() == [[1.0, 2.0]]
        with pytest.raises(NoStateError):
            await two.state


@pytest.mark.parametrize("kind", LISTEN)
async def test_a_state_of_other_layers_is_none_and_the_right_one_is_still_awaited(kind, tmp_path):
    async with listening(kind, tmp_path) as reports:
        expected, tokens_alone = reports.expect((8, 16)), reports.expect(())
        await send(reports, state(expected, (16, 8)), state(expected, (8,)), state(tokens_alone, (8,)))
        await counted(reports, no_frame=3)
        assert not expected.state.done()
        await send(reports, state(expected))
        assert (await asyncio.wait_for(expected.state, PATIENCE)).layers == (8, 16)


@pytest.mark.parametrize("kind", LISTEN)
async def test_what_nobody_expects_is_counted_and_logged_once(kind, tmp_path, caplog):
    async with listening(kind, tmp_path) as reports:
        stranger = frames.end("f" * 32, 1)
        with caplog.at_level(logging.WARNING):
            await send(reports, stranger, stranger, stranger)
            await counted(reports, unexpected=3)
        assert len(caplog.records) == 1


@pytest.mark.parametrize("data", [b"", b"x", b"PSF1", b"\0" * 60_000, frames.frame({"id": 7})])
async def test_a_datagram_that_is_no_frame_is_counted_and_the_next_one_is_read(data, tmp_path):
    async with listening("unix", tmp_path) as reports:
        expected = reports.expect((16,))
        await send(reports, data, state(expected))
        await asyncio.wait_for(expected.state, PATIENCE)
        assert reports.counts == {"no_frame": 1, "taken": 1}


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"PSF1" + b"\xff" * 8])
async def test_a_connection_that_brings_no_frame_is_closed_and_others_are_served(data, tmp_path):
    async with listening("tcp", tmp_path) as reports:
        address, expected = parse_address(reports.address), reports.expect((16,))
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(data)
        with contextlib.suppress(ConnectionResetError):  # it was closed with something unread
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()
        await send(reports, state(expected))
        await asyncio.wait_for(expected.state, PATIENCE)
        assert reports.counts == {"no_frame": 1, "taken": 1}


async def test_a_connection_that_breaks_off_within_a_frame_brings_nothing(tmp_path):
    async with listening("tcp", tmp_path) as reports:
        expected = reports.expect((16,))
        await send(reports, state(expected)[:-1])
        await eventually(lambda: not reports._connections)
        assert not expected.state.done()
        assert not reports.counts


async def test_a_frame_with_a_bad_header_does_not_end_a_connection(tmp_path):
    async with listening("tcp", tmp_path) as reports:
        expected = reports.expect((16,))
        await send(reports, frames.frame({"id": 7}, b"payload"), state(expected))
        await asyncio.wait_for(expected.state, PATIENCE)


async def test_no_more_connections_are_held_than_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_reports, "_MOST_CONNECTIONS", 2)
    async with listening("tcp", tmp_path) as reports:
        address = parse_address(reports.address)
        kept = [await asyncio.open_connection(address.host, address.port) for _ in range(2)]
        await eventually(lambda: len(reports._connections) == 2)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()
        kept[0][1].close()
        await eventually(lambda: len(reports._connections) == 1)
        expected = reports.expect((16,))
        await send(reports, state(expected))
        await asyncio.wait_for(expected.state, PATIENCE)
        kept[1][1].close()


async def test_the_oldest_is_forgotten_where_more_are_expected_than_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_reports, "_MOST_EXPECTED", 2)
    async with listening("unix", tmp_path) as reports:
        first, second, third = (reports.expect((16,)) for _ in range(3))
        await send(reports, state(first), state(second), state(third))
        await counted(reports, unexpected=1, taken=2)
        assert not first.state.done()
        assert second.state.done()


async def test_ids_are_long_and_never_the_same(tmp_path):
    async with listening("unix", tmp_path) as reports:
        ids = {reports.expect(()).request.id for _ in range(1000)}
        assert len(ids) == 1000
        assert all(len(one) == 32 for one in ids)


@pytest.mark.parametrize("kind", LISTEN)
async def test_who_gave_up_hears_nothing_more(kind, tmp_path):
    async with listening(kind, tmp_path) as reports:
        expected = reports.expect((16,))
        expected.state.cancel()
        await send(reports, state(expected), end(expected))
        await counted(reports, taken=2)
        assert not reports._expected


async def test_closing_ends_connections_and_removes_the_socket(tmp_path):
    async with listening("unix", tmp_path):
        mode = (tmp_path / "r.sock").stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert not mode & 0o007
    assert not (tmp_path / "r.sock").exists()
    async with listening("tcp", tmp_path) as reports:
        address = parse_address(reports.address)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        await eventually(lambda: len(reports._connections) == 1)
        await asyncio.wait_for(reports.close(), PATIENCE)
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()
        with pytest.raises(OSError):  # noqa: PT011
            await asyncio.open_connection(address.host, address.port)


async def test_a_socket_that_a_dead_process_left_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(tmp_path / "r.sock"))
    async with listening("unix", tmp_path) as reports:
        expected = reports.expect((16,))
        await send(reports, state(expected))
        await asyncio.wait_for(expected.state, PATIENCE)


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    (tmp_path / "r.sock").write_text("somebody's")
    with pytest.raises(OSError, match="in use"):
        await EngineReports(f"unix:{tmp_path}/r.sock").start()
    assert (tmp_path / "r.sock").read_text() == "somebody's"


async def test_a_successors_socket_outlives_its_predecessor(tmp_path):
    """In a rolling restart the new process listens before the old one ends."""
    old = EngineReports(f"unix:{tmp_path}/r.sock")
    await old.start()
    async with listening("unix", tmp_path) as new:
        await old.close()
        expected = new.expect((16,))
        await send(new, state(expected))
        await asyncio.wait_for(expected.state, PATIENCE)


async def test_engines_are_told_the_address_that_is_given(tmp_path):
    async with listening("tcp", tmp_path, address="tcp://10.0.0.7:1") as reports:
        assert reports.expect(()).request.to == "tcp://10.0.0.7:1"


@pytest.mark.parametrize("listen", ["unix:/a/b.sock", "tcp://0.0.0.0:0", "tcp://[::1]:50070", "tcp://host:65535"])
def test_an_address_to_listen_at_is_read(listen):
    kind, host, port = parse_listen(listen)
    assert kind == listen[: len(kind)]
    assert host in listen
    assert 0 <= port < 65536


@pytest.mark.parametrize(
    "listen",
    ["", "unix:", "unix:a.sock", "unix:/", "unix://a", "unix:/a/../b", "unix:/a/", "tcp://", "tcp://host", "tcp://:1",
     "tcp://h:65536", "tcp://h:-1", "tcp://h:²", "tcp:h:1", "http://h:1"],
)  # fmt: skip
def test_what_is_no_address_to_listen_at_is_refused(listen):
    with pytest.raises(ValueError, match="unix:/path or tcp://host:port"):
        parse_listen(listen)


def test_a_path_to_listen_at_is_one_that_engines_send_to(tmp_path):
    path = str(Path(tmp_path) / "r.sock")
    assert parse_listen(f"unix:{path}") == ("unix", path, 0)
    assert parse_address(f"unix:{path}").path == path
