"""Takes what engines report of requests while they run: the prompt's hidden state, and the tokens they generated.

Theory of operation. A call that wants a report gets an id that nobody can guess and the address at which this listens;
its backend passes both on to the engine, and the engine's connector sends frames to the address. A frame is believed
only where its id is expected. A state goes to who waits for it. The number of generated tokens comes after the call is
over, since the engine hears last that it was cut; so an id is remembered until then, or until newer ones push it out.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import posixpath
import secrets
import socket
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scheduler_service.generation.forcing import ReportRequest
from scheduler_service.generation.report_frames import (
    LENGTHS,
    FrameError,
    Generated,
    Refusal,
    State,
    lengths,
    parse_frame,
)

log = logging.getLogger(__name__)

_MOST_EXPECTED = 65536
_MOST_CONNECTIONS = 256
_RECEIVE_BYTES = 4 << 20


class NoStateError(Exception):
    """The engine says that it has no state; the text says why."""


@dataclass(eq=False)
class Expected:
    """A report that is to come of one call. ``request``: what the call asks for. ``state``: the state, or NoStateError.

    ``on_wasted``: is told how many tokens the engine generated beyond those that were read, once both are known.
    """

    request: ReportRequest
    state: asyncio.Future[State]
    on_wasted: Callable[[int], None]
    _generated: int | None = None
    _read: int | None = None

    @property
    def over(self) -> bool:
        """Whether all has come: the state may come after the end, since different processes of an engine send them."""
        return self._generated is not None and (not self.request.layers or self.state.done())

    def generated(self, tokens: int) -> None:
        """The engine says how many tokens it generated; the last of them may still be on their way."""
        if self._generated is None:
            self._generated = tokens
            self._compare()

    def read(self, tokens: int) -> None:
        """The call is over, and brought so many tokens."""
        self._read = tokens
        self._compare()

    def _compare(self) -> None:
        if self._generated is not None and self._read is not None:
            self.on_wasted(max(0, self._generated - self._read))


def parse_listen(text: str) -> tuple[str, str, int]:
    """Read ``unix:/path`` or ``tcp://host:port``: kind, path or host, port. Raises ValueError for anything else."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest.startswith("/") and posixpath.normpath(rest) == rest != "/" and rest[:2] != "//":
        return kind, rest, 0  # engines send to no other path
    host, _, port = rest.removeprefix("//").rpartition(":")
    if kind == "tcp" and rest.startswith("//") and host and port.isascii() and port.isdigit() and int(port) < 65536:
        return kind, host.removeprefix("[").removesuffix("]"), int(port)
    raise ValueError("must be unix:/path or tcp://host:port")


def check_told(address: str) -> None:
    """Check an address that engines are to send to. Raises ValueError for one that they cannot.

    They look no name up, and send from other machines perhaps, to which 0.0.0.0 is another place.
    """
    kind, host, _ = parse_listen(address)
    if kind == "unix":
        return
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{host!r} is no ip, and engines look no name up") from None
    if ip.is_unspecified:
        raise ValueError(f"{host} is where to listen, and nowhere to send to")


class EngineReports:
    """Listens for reports at ``listen`` (``unix:/path``, ``tcp://host:port``; port 0 takes a free one).

    ``address``: what engines are told, where it is not the same. ``counts``: frames by what became of them.
    """

    def __init__(self, listen: str, address: str = "") -> None:
        """Remember where to listen. Raises ValueError for what is no address."""
        self._kind, self._host, self._port = parse_listen(listen)
        self.address = address or listen
        self._told = bool(address)
        self.counts: Counter[str] = Counter()
        self._expected: dict[str, Expected] = {}
        self._datagrams: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._file: os.stat_result | None = None

    async def start(self) -> None:
        """Listen. Raises OSError where that is not possible."""
        if self._kind == "tcp":
            self._server = await asyncio.start_server(self._serve, self._host, self._port)
            if not self._told:
                host, port = self._server.sockets[0].getsockname()[:2]
                self.address = f"tcp://{f'[{host}]' if ':' in host else host}:{port}"
            return
        opened, self._file = _datagram_socket(Path(self._host))
        loop = asyncio.get_running_loop()
        self._datagrams, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._take), sock=opened)

    async def close(self) -> None:
        """Stop to listen; who waits for a state waits until its own limit."""
        if self._datagrams is not None:
            self._datagrams.close()
            if self._file is not None:
                _remove(Path(self._host), self._file)
        if self._server is not None:
            self._server.close()
            for connection in tuple(self._connections):
                connection.close()
            await self._server.wait_closed()

    def expect(self, layers: Sequence[int], on_wasted: Callable[[int], None] = lambda tokens: None) -> Expected:
        """Return what to ask of an engine: the states of ``layers``, none for the number of generated tokens alone."""
        request = ReportRequest(self.address, secrets.token_hex(16), tuple(layers))
        expected = Expected(request, asyncio.get_running_loop().create_future(), on_wasted)
        self._expected[request.id] = expected
        while len(self._expected) > _MOST_EXPECTED:
            del self._expected[next(iter(self._expected))]
        return expected

    def _take(self, data: bytes) -> None:
        """Take a frame from anybody."""
        try:
            frame = parse_frame(data)
        except FrameError as error:
            self._count("no_frame", str(error))
            return
        expected = self._expected.get(frame.id)
        if expected is None:
            self._count("unexpected", "of a request that is not known, or no more")
            return
        match frame:
            case Generated(tokens=tokens):
                expected.generated(tokens)
            case Refusal(reason=reason):
                if not expected.state.done():
                    self._count("refused", reason)
                    expected.state.set_exception(NoStateError(reason))
                    expected.state.exception()  # who does not wait for it need not hear of it
            case State():
                if frame.layers != expected.request.layers:
                    self._count("no_frame", f"layers {frame.layers} instead of {expected.request.layers}")
                    return
                if not expected.state.done():
                    expected.state.set_result(frame)
        if not isinstance(frame, Refusal):
            self.counts["taken"] += 1
        if expected.over:
            del self._expected[frame.id]

    def _count(self, what: str, reason: str) -> None:
        if not self.counts[what]:
            log.warning("a report of the engine is not used: %s (further ones of this kind are only counted)", reason)
        self.counts[what] += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read frames from a connection until it ends, or brings what is none."""
        if len(self._connections) >= _MOST_CONNECTIONS:
            writer.close()
            return
        self._connections.add(writer)
        try:
            while True:
                prefix = await reader.readexactly(LENGTHS.size)
                header, payload = lengths(prefix)
                self._take(prefix + await reader.readexactly(header + payload))
        except FrameError as error:
            self._count("no_frame", str(error))
        except (asyncio.IncompleteReadError, OSError):
            pass  # the engine went away
        finally:
            self._connections.discard(writer)
            writer.close()


def _datagram_socket(path: Path) -> tuple[socket.socket, os.stat_result]:
    """A bound socket that members of its group may write to, and its file.

    Raises OSError, also where another file is there.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()  # of an earlier run: nobody listens there any more, or we do now
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        opened.bind(str(path))
        path.chmod(0o660)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        opened.setblocking(False)
        return opened, path.stat()
    except BaseException:
        opened.close()
        raise


def _remove(path: Path, file: os.stat_result) -> None:
    """Remove our socket's file. Another one of that name belongs to who listens there now."""
    with contextlib.suppress(OSError):
        if os.path.samestat(file, path.stat()):
            path.unlink()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._take(data)
