"""Frames leave without holding up the engine, in their order, each counted once, whatever their receivers do."""

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from predictive_scheduling_vllm.destinations import Address
from predictive_scheduling_vllm.sender import Sender

PATIENCE = 60.0  # seconds: what takes longer hangs, on whatever machine
NAME = "0123456789abcdef"
BIG = b"x" * (1 << 20)


def until(condition):
    """Wait for what the sender's thread does."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.002)
    return found


def total(sender):
    return sum(sender.counts.values())


@contextlib.contextmanager
def sending(**options):
    """A sender that is closed afterwards."""
    sender = Sender(**{"seconds": PATIENCE, **options})
    try:
        yield sender
    finally:
        sender.close(PATIENCE)


@pytest.fixture
def datagrams(tmp_path):
    """A Unix datagram socket and its address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        path = str(tmp_path / "s.sock")
        receiver.bind(path)
        receiver.settimeout(PATIENCE)
        yield receiver, Address("unix", path=path)


@contextlib.contextmanager
def listening():
    """A TCP listener and its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        yield server, Address("tcp", host="127.0.0.1", port=server.getsockname()[1])


def accepted(server):
    connection, _ = server.accept()
    connection.settimeout(PATIENCE)
    return connection


def read_exactly(connection, length):
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        assert more, f"ended after {data!r}"
        data += more
    return data


def fill(path):
    """Fill a datagram socket's queue from elsewhere; returns how many frames it took."""
    count = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"filled", path)
                count += 1
    return count


def test_a_frame_with_its_bytes_leaves_in_the_same_call(datagrams):
    receiver, address = datagrams
    with sending() as sender:
        sender.send(address, NAME, b"one")
        assert sender.counts == {"sent": 1}
        assert receiver.recv(100) == b"one"
        assert sender._thread is None


def test_frames_keep_their_order_where_some_are_still_to_be_copied(datagrams):
    receiver, address = datagrams
    copied = threading.Event()

    def late():
        assert copied.wait(PATIENCE)
        return b"1"

    with sending() as sender:
        sender.send(address, NAME, b"0")
        sender.send(address, NAME, late)
        sender.send(address, NAME, b"2")
        sender.send(address, NAME, lambda: b"3")
        sender.send(address, NAME, b"4")
        copied.set()
        assert [receiver.recv(100) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        until(lambda: sender.counts == {"sent": 5})


def test_no_frame_overtakes_one_that_is_being_copied_or_retried(datagrams):
    """The queue is empty while the thread holds its last frame."""
    receiver, address = datagrams
    held, go = threading.Event(), threading.Event()

    def copying():
        held.set()
        assert go.wait(PATIENCE)
        return b"first"

    with sending() as sender:
        sender.send(address, NAME, copying)
        assert held.wait(PATIENCE)
        sender.send(address, NAME, b"second")
        go.set()
        assert [receiver.recv(100) for _ in range(2)] == [b"first", b"second"]


def test_a_full_receiver_gets_its_frames_in_order_once_it_reads(datagrams):
    receiver, address = datagrams
    before = fill(address.path)
    with sending() as sender:
        for at in range(5):
            sender.send(address, NAME, str(at).encode())
        assert total(sender) == 0
        for _ in range(before):
            assert receiver.recv(100) == b"filled"
        assert [receiver.recv(100) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        until(lambda: sender.counts == {"sent": 5})


def test_what_a_full_receiver_does_not_take_in_time_is_late(datagrams):
    _, address = datagrams
    fill(address.path)
    with sending(seconds=0.02) as sender:
        for _ in range(3):
            sender.send(address, NAME, b"x")
        until(lambda: sender.counts == {"late": 3})


def test_what_waited_too_long_behind_others_is_late(datagrams):
    receiver, address = datagrams
    now = [0.0]

    def slow():
        now[0] += 10.0
        return b"slow"

    with sending(seconds=1.0, clock=lambda: now[0]) as sender:
        sender.send(address, NAME, slow)
        until(lambda: sender.counts == {"late": 1})
        sender.send(address, NAME, b"next")
        assert receiver.recv(100) == b"next"


@pytest.mark.parametrize("kind", ["absent", "not a socket", "a stream", "too long", "gone"])
def test_an_absent_receiver_is_unreachable_and_the_next_one_is_served(kind, tmp_path, datagrams):
    receiver, good = datagrams
    path = tmp_path / ("other" + "x" * 200 * (kind == "too long"))
    with contextlib.ExitStack() as stack:
        if kind == "not a socket":
            path.write_text("a file")
        if kind in ("a stream", "gone"):
            other = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            other.bind(str(path))
            if kind == "gone":
                other.close()
        sender = stack.enter_context(sending())
        for frame in (b"x", lambda: b"x"):
            sender.send(Address("unix", path=str(path)), NAME, frame)
        until(lambda: sender.counts == {"unreachable": 2})
        sender.send(good, NAME, b"y")
        assert receiver.recv(10) == b"y"
        if kind == "not a socket":
            assert path.read_text() == "a file"


def test_what_is_no_frame_or_no_address_is_counted_and_raises_nothing(datagrams):
    receiver, address = datagrams

    def broken():
        raise RuntimeError("the copy failed")

    with sending() as sender:
        sender.send(address, NAME, broken)
        sender.send(Address("unix", path="/run/\ud800"), NAME, b"x")
        sender.send(address, NAME, lambda: None)
        until(lambda: sender.counts == {"failed": 3})
        sender.send(address, NAME, b"y")
        assert receiver.recv(10) == b"y"


def test_a_full_queue_drops_and_counts_without_waiting(datagrams):
    receiver, address = datagrams
    held, go = threading.Event(), threading.Event()

    def copying():
        held.set()
        assert go.wait(PATIENCE)
        return b"0"

    with sending(most=2) as sender:
        sender.send(address, NAME, copying)
        assert held.wait(PATIENCE)
        for at in range(1, 6):  # would hang here if it waited: only this thread lets the other one go
            sender.send(address, NAME, str(at).encode())
        assert sender.counts == {"queue_full": 3}
        go.set()
        assert [receiver.recv(10) for _ in range(3)] == [b"0", b"1", b"2"]
        until(lambda: sender.counts == {"queue_full": 3, "sent": 3})


def test_frames_to_a_tcp_address_share_a_connection():
    with listening() as (server, address), sending() as sender:
        for at in range(3):
            sender.send(address, NAME, str(at).encode())
        with accepted(server) as connection:
            assert read_exactly(connection, 3) == b"012"
            until(lambda: sender.counts == {"sent": 3})
            sender.send(address, NAME, lambda: b"3")
            assert read_exactly(connection, 1) == b"3"


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_its_peer_closed_is_opened_again_and_no_frame_is_lost(reset):
    with listening() as (server, address), sending() as sender:
        for at in range(4):
            frame = f"frame {at}".encode()
            sender.send(address, NAME, frame)
            with accepted(server) as connection:
                assert read_exactly(connection, len(frame)) == frame
                until(lambda at=at: sender.counts["sent"] == at + 1)
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert sender.counts == {"sent": 4}


def test_a_peer_that_speaks_gets_a_new_connection():
    """Nobody who reads frames says anything; whoever does is not read, and may not fill our memory."""
    with listening() as (server, address), sending() as sender:
        sender.send(address, NAME, b"1")
        with accepted(server) as talker:
            assert read_exactly(talker, 1) == b"1"
            talker.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            until(lambda: sender.counts["sent"] == 1)
            sender.send(address, NAME, b"2")
            with accepted(server) as connection:
                assert read_exactly(connection, 1) == b"2"


def test_a_peer_that_never_reads_holds_nobody_for_longer_than_a_frame_may_take(datagrams):
    receiver, good = datagrams
    with listening() as (server, address), sending(seconds=0.05, rest=0.0) as sender:
        for _ in range(40):  # more than the kernel keeps
            sender.send(address, NAME, BIG)
        until(lambda: total(sender) == 40)
        assert sender.counts["late"] > 0
        assert set(sender.counts) <= {"late", "sent"}
        until(lambda: not sender._waiting.unfinished_tasks)
        sender.send(good, NAME, b"y")
        assert receiver.recv(10) == b"y"
        assert server is not None


def test_a_destination_that_was_too_slow_is_left_alone_for_a_while_and_holds_up_no_other(datagrams, tmp_path):
    receiver, good = datagrams
    now, asked = [0.0], []

    def clock():
        asked.append(1)
        return now[0]

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full:
        full.bind(str(tmp_path / "full"))
        full.settimeout(PATIENCE)
        address = Address("unix", path=str(tmp_path / "full"))
        before = fill(address.path)
        with sending(seconds=1.0, rest=10.0, clock=clock) as sender:
            sender.send(address, NAME, b"1")
            until(lambda: len(asked) > 10)  # it tries
            now[0] = 1.0
            until(lambda: sender.counts == {"late": 1})
            for at in range(3):  # the clock stands: whoever tried would try for ever
                sender.send(address, NAME, lambda: b"2")
                sender.send(good, NAME, b"good")
                assert receiver.recv(10) == b"good"
                until(lambda at=at: sender.counts == {"late": 2 + at, "sent": 1 + at})
            now[0] = 11.0
            for _ in range(before):
                full.recv(10)
            sender.send(address, NAME, lambda: b"3")
            assert full.recv(10) == b"3"


def test_after_a_frame_that_broke_off_the_next_one_begins_a_connection():
    """Else its bytes would be read as the rest of the broken one."""
    with listening() as (server, address), sending(seconds=0.2, rest=0.0) as sender:
        while not sender.counts["late"]:
            sender.send(address, NAME, BIG)
            until(lambda: not sender._waiting.unfinished_tasks)
        sender.send(address, NAME, b"whole")
        with accepted(server) as first:
            while first.recv(1 << 20):
                pass
        for _ in range(8):  # the connections of frames that were late, until the good one's
            with accepted(server) as connection:
                if connection.recv(1 << 20)[:5] == b"whole":
                    break
        else:
            raise AssertionError("the frame did not come")


def test_a_port_where_nobody_listens_is_unreachable():
    with listening() as (_, address):
        pass
    with sending() as sender:
        sender.send(address, NAME, b"x")
        until(lambda: sender.counts == {"unreachable": 1})


def test_no_more_than_the_most_connections_are_kept(monkeypatch):
    monkeypatch.setattr("predictive_scheduling_vllm.sender._MOST_CONNECTIONS", 2)
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(listening()) for _ in range(4)]
        sender = stack.enter_context(sending())
        connections = []
        for server, address in found:
            sender.send(address, NAME, b"1")
            connections.append(stack.enter_context(accepted(server)))
            assert read_exactly(connections[-1], 1) == b"1"
        until(lambda: sender.counts == {"sent": 4})
        assert [connection.recv(1) for connection in connections[:2]] == [b"", b""]
        sender.send(found[3][1], NAME, b"2")
        assert read_exactly(connections[3], 1) == b"2"


def test_a_file_appears_whole_and_takes_the_requests_later_frames(tmp_path):
    folder = Address("file", path=str(tmp_path))
    seen, stop = [], threading.Event()

    def watch():
        while not stop.is_set():
            with contextlib.suppress(FileNotFoundError):
                seen.append(len((tmp_path / f"{NAME}.frames").read_bytes()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with sending() as sender:
            sender.send(folder, NAME, BIG)
            until(lambda: sender.counts == {"sent": 1})
            until(lambda: seen)
            stop.set()
            watcher.join(PATIENCE)
            assert set(seen) == {len(BIG)}
            sender.send(folder, NAME, b"end")
            until(lambda: sender.counts == {"sent": 2})
    finally:
        stop.set()
    assert (tmp_path / f"{NAME}.frames").read_bytes() == BIG + b"end"
    assert os.listdir(tmp_path) == [f"{NAME}.frames"]  # noqa: PTH208


def test_two_processes_that_begin_one_file_lose_neither_frame(tmp_path):
    """The worker sends the state, the scheduler's process the end; here two senders do, at once."""
    folder, times = Address("file", path=str(tmp_path)), 50
    barrier = threading.Barrier(2)

    def meet(frame):
        def make():
            barrier.wait(PATIENCE)
            return frame

        return make

    with sending() as one, sending() as two:
        for at in range(times):
            one.send(folder, f"{at:016}", meet(b"state"))
            two.send(folder, f"{at:016}", meet(b"end"))
        until(lambda: one.counts == two.counts == {"sent": times})
    for at in range(times):
        assert (tmp_path / f"{at:016}.frames").read_bytes() in (b"stateend", b"endstate")


def test_a_folder_that_is_not_there_is_unreachable_and_not_made(tmp_path):
    with sending() as sender:
        sender.send(Address("file", path=str(tmp_path / "no")), NAME, b"x")
        until(lambda: sender.counts == {"unreachable": 1})
    assert not (tmp_path / "no").exists()


def test_closing_sends_what_waits_ends_the_thread_and_refuses_the_rest(datagrams):
    receiver, address = datagrams
    sender = Sender(seconds=PATIENCE)
    for at in range(5):
        sender.send(address, NAME, lambda at=at: str(at).encode())
    sender.close(PATIENCE)
    assert not sender._thread.is_alive()
    assert [receiver.recv(10) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    sender.send(address, NAME, b"after")
    assert sender.counts == {"sent": 5, "late": 1}
    sender.close(PATIENCE)  # twice is once


def test_closing_a_full_queue_ends_the_thread_too(datagrams):
    _, address = datagrams
    fill(address.path)
    sender = Sender(most=1, seconds=PATIENCE)
    for _ in range(5):
        sender.send(address, NAME, b"x")
    sender.close(PATIENCE)
    assert not sender._thread.is_alive()
    assert total(sender) == 5


def test_closing_what_never_sent_is_nothing():
    Sender(seconds=PATIENCE).close()


def test_threads_lose_no_count(tmp_path):
    sender = Sender(seconds=PATIENCE, most=10)
    nowhere = Address("unix", path=str(Path(tmp_path) / "no"))

    def work():
        for _ in range(500):
            sender.send(nowhere, NAME, b"x")
            sender.count("refused")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    sender.close(PATIENCE)
    assert total(sender) == 4000
    assert sender.counts["refused"] == 2000
