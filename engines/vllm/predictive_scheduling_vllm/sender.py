"""Sends frames without ever holding up the engine: what cannot be sent is dropped, and counted.

Theory of operation. The engine's thread calls ``send``, which returns at once. A frame whose bytes are there goes out
in the same call where its destination is a Unix socket with room; every other frame waits in a bounded queue for one
thread. That thread waits for the frame's bytes where they are still to come (from a GPU), keeps one connection for each
TCP address, and gives no frame more than ``seconds``: as long as it is of use to who asked for it. A destination that
let a frame be late is left alone for ``rest`` seconds, so that it does not make the others' frames late, too.

What always holds: ``send`` neither waits nor raises; frames of one destination keep their order, except where one is
dropped; each frame is counted once, as sent or by the reason why not.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from predictive_scheduling_vllm.destinations import Address

_MOST_CONNECTIONS = 64
_RETRY_SECONDS = 0.001  # between tries of a full Unix socket

# Bytes, or what returns them once they are there.
Frame = bytes | Callable[[], bytes]


class Sender:
    """``most``: frames that may wait. ``seconds``: how long one may take. ``counts``: by what became of frames."""

    def __init__(
        self,
        *,
        seconds: float,
        rest: float = 1.0,
        most: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open no connection yet; the thread starts with the first frame that needs it."""
        self.counts: Counter[str] = Counter()
        self._seconds, self._rest, self._clock = seconds, rest, clock
        self._resting: dict[Address, float] = {}  # until when
        self._waiting: queue.Queue[tuple[Address, str, Frame, float] | None] = queue.Queue(most)
        self._open = threading.Lock()
        self._counting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._datagrams: socket.socket | None = None
        self._streams: dict[Address, socket.socket] = {}
        self._closed = False

    def send(self, address: Address, name: str, frame: Frame) -> None:
        """Send a frame, now or soon; ``name`` is what a file is called. Never waits, never raises."""
        try:
            if self._closed:
                self.count("late")
                return
            # With nothing unfinished the thread holds no frame, which this one could overtake.
            if isinstance(frame, bytes) and address.kind == "unix" and not self._waiting.unfinished_tasks:
                try:
                    self._datagram(address.path, frame)
                    self.count("sent")
                    return
                except BlockingIOError:
                    pass  # its receiver's queue is full: the thread tries again
            self._start()
            self._waiting.put_nowait((address, name, frame, self._clock() + self._seconds))
        except queue.Full:
            self.count("queue_full")
        except OSError:
            self.count("unreachable")
        except Exception:  # whatever it is, the engine goes on
            self.count("failed")

    def count(self, what: str) -> None:
        """Count a frame by what became of it; of any thread."""
        with self._counting:
            self.counts[what] += 1

    def close(self, seconds: float = 1.0) -> None:
        """Send what waits, as far as ``seconds`` allow, and end the thread. What is sent afterwards is late."""
        self._closed = True
        until = self._clock() + seconds
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._waiting.put(None, timeout=seconds)
            self._thread.join(max(0.0, until - self._clock()))
        if self._datagrams is not None and not (self._thread and self._thread.is_alive()):
            self._datagrams.close()

    def _start(self) -> None:
        if self._thread is not None:
            return
        with self._open:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="prompt-states", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            self.count(self._result(*item))
            self._waiting.task_done()
        for stream in self._streams.values():
            stream.close()

    def _result(self, address: Address, name: str, frame: Frame, until: float) -> str:
        """Send a frame; returns what became of it."""
        try:
            # Waits for a GPU's copy, which takes no time that could be bounded here.
            whole = frame if isinstance(frame, bytes) else frame()
            now = self._clock()
            if now >= until or now < self._resting.get(address, now):
                return "late"
            self._deliver(address, name, whole, until)
        except TimeoutError:
            self._resting[address] = self._clock() + self._rest
            while len(self._resting) > _MOST_CONNECTIONS:
                del self._resting[next(iter(self._resting))]
            return "late"
        except OSError:
            return "unreachable"
        except Exception:  # the thread serves the next one
            return "failed"
        return "sent"

    def _deliver(self, address: Address, name: str, frame: bytes, until: float) -> None:
        match address.kind:
            case "unix":
                while True:
                    try:
                        self._datagram(address.path, frame)
                        return
                    except BlockingIOError:
                        if self._clock() + _RETRY_SECONDS >= until or self._closed:
                            raise TimeoutError from None
                        time.sleep(_RETRY_SECONDS)
            case "tcp":
                self._stream(address, frame, until)
            case _:
                _write(Path(address.path), name, frame)

    def _datagram(self, path: str, frame: bytes) -> None:
        if self._datagrams is None:
            with self._open:
                if self._datagrams is None:
                    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    opened.setblocking(False)
                    self._datagrams = opened
        self._datagrams.sendto(frame, path)

    def _stream(self, address: Address, frame: bytes, until: float) -> None:
        """Send over the address's connection. One that was closed meanwhile is opened once more."""
        if (kept := self._streams.pop(address, None)) is not None:
            try:
                _check_open(kept)
                self._write(kept, address, frame, until)
                return
            except TimeoutError:
                raise
            except OSError:
                kept.close()  # the other side closed it since the last frame
        left = until - self._clock()
        if left <= 0:
            raise TimeoutError
        opened = socket.create_connection((address.host, address.port), timeout=left)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._write(opened, address, frame, until)

    def _write(self, stream: socket.socket, address: Address, frame: bytes, until: float) -> None:
        """Write a frame and keep the connection; one that broke in the middle of a frame is of no more use."""
        try:
            stream.settimeout(max(0.001, until - self._clock()))
            stream.sendall(frame)
        except BaseException:
            stream.close()
            raise
        self._streams[address] = stream  # the latest at the end
        while len(self._streams) > _MOST_CONNECTIONS:
            self._streams.pop(next(iter(self._streams))).close()


def _check_open(stream: socket.socket) -> None:
    """Raise OSError for a connection that its peer has closed: what is written to it would be lost without a word."""
    stream.setblocking(False)
    try:
        stream.recv(1)
    except BlockingIOError:
        return
    raise ConnectionResetError  # it is closed, or its peer speaks, which none of ours does


def _write(folder: Path, name: str, frame: bytes) -> None:
    """Write a file that appears whole; states and ends of a request, of two processes, are appended to each other."""
    path = folder / f"{name}.frames"
    unfinished = folder / f".{name}.{os.getpid()}.{threading.get_ident()}"
    try:
        if not path.exists():
            unfinished.write_bytes(frame)
            with contextlib.suppress(FileExistsError):  # the other process was first
                path.hardlink_to(unfinished)
                return
        with path.open("ab") as file:
            file.write(frame)
    finally:
        unfinished.unlink(missing_ok=True)
