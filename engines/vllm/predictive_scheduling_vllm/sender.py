"""Sends frames without ever holding up the engine: what cannot be sent is dropped, and counted.

Theory of operation. The engine's thread calls ``send``, which returns at once. A frame whose bytes are there goes out
in the same call where its destination is a Unix socket with room; every other frame waits in a bounded queue for one
thread. That thread waits for the frame's bytes where they are still to come (from a GPU), keeps one connection for each
TCP address, and gives no frame more than ``seconds``. What is late is of no use to who asked for it.

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

    def __init__(self, *, most: int = 1024, seconds: float = 0.25, clock: Callable[[], float] = time.monotonic) -> None:
        """Open no connection yet; the thread starts with the first frame that needs it."""
        self.counts: Counter[str] = Counter()
        self._seconds, self._clock = seconds, clock
        self._waiting: queue.Queue[tuple[Address, str, Frame, float] | None] = queue.Queue(most)
        self._open = threading.Lock()
        self._thread: threading.Thread | None = None
        self._datagrams: socket.socket | None = None
        self._streams: dict[Address, socket.socket] = {}
        self._closed = False

    def send(self, address: Address, name: str, frame: Frame) -> None:
        """Send a frame, now or soon; ``name`` is what a file is called. Never waits, never raises."""
        try:
            if isinstance(frame, bytes) and address.kind == "unix" and self._waiting.empty():
                try:
                    self._datagram(address.path, frame)
                    self.counts["sent"] += 1
                    return
                except BlockingIOError:
                    pass  # its receiver's queue is full: the thread tries again
            self._start()
            self._waiting.put_nowait((address, name, frame, self._clock() + self._seconds))
        except queue.Full:
            self.counts["queue_full"] += 1
        except OSError:
            self.counts["unreachable"] += 1
        except Exception:  # whatever it is, the engine goes on
            self.counts["failed"] += 1

    def close(self, seconds: float = 1.0) -> None:
        """Send what waits, as far as ``seconds`` allow, and end the thread."""
        self._closed = True
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(None)
            self._thread.join(seconds)

    def _start(self) -> None:
        if self._thread is not None:
            return
        with self._open:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="prompt-states", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            address, name, frame, until = item
            try:
                # Waits for a GPU's copy, which takes no time that could be bounded here.
                whole = frame if isinstance(frame, bytes) else frame()
                if self._clock() >= until:
                    self.counts["late"] += 1
                    continue
                self._deliver(address, name, whole, until)
                self.counts["sent"] += 1
            except TimeoutError:
                self.counts["late"] += 1
            except OSError:
                self.counts["unreachable"] += 1
            except Exception:  # the thread serves the next one
                self.counts["failed"] += 1
        for stream in self._streams.values():
            stream.close()

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
            self._datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._datagrams.setblocking(False)
        self._datagrams.sendto(frame, path)

    def _stream(self, address: Address, frame: bytes, until: float) -> None:
        """Send over the address's connection. One that was closed meanwhile is opened once more."""
        if (kept := self._streams.pop(address, None)) is not None:
            try:
                self._write(kept, address, frame, until)
                return
            except TimeoutError:
                raise
            except OSError:
                pass  # closed by the other side since the last frame, none of which may have arrived
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


def _write(folder: Path, name: str, frame: bytes) -> None:
    """Write a file that appears whole; states and ends of a request are appended to each other."""
    path = folder / f"{name}.frames"
    if path.exists():
        with path.open("ab") as file:
            file.write(frame)
        return
    unfinished = folder / f".{name}.{os.getpid()}"
    unfinished.write_bytes(frame)
    unfinished.replace(path)
