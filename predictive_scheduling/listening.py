"""Listening: what is said of an address that is taken, and what is done when file descriptors run out.

Then the log says so now and then, and accepting continues once some are free. asyncio removes a listening socket from
its selector for a second where ``accept`` fails so, but first tries again as often as its backlog is long, with a
traceback each, and each of those tries begins the next second's.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

REST_SECONDS = 0.5  # asyncio waits for a second before it accepts again
_EVERY_SECONDS = 10.0
_LAST_PORT = 65535
_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def is_scarcity(error: object) -> bool:
    """Whether the process or the machine has run out of what a connection takes."""
    return isinstance(error, OSError) and error.errno in _SCARCE


class ListenError(OSError):
    """An address cannot be listened at; the text names the setting, the address and the reason."""


@contextmanager
def listens(setting: str, address: str) -> Iterator[None]:
    """Name the setting that an address is of, where listening there fails. Raises ListenError."""
    try:
        yield
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise ListenError(f"{setting}: cannot listen at {address}: {_reason(error)}") from None


def check_port(address: str) -> None:
    """Raise ValueError for a port beyond the last one, which gRPC takes modulo 65536, and a socket fails at late."""
    port = address.rpartition(":")[2]
    if port.isdecimal() and int(port) > _LAST_PORT:
        raise ValueError(f"{address}: the last port is {_LAST_PORT}")


def _reason(error: Exception) -> str:
    if isinstance(error, RuntimeError):  # gRPC's, which has none
        return "it is taken, no address of this machine, or the certificate is of no use"
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror.partition(" (while")[0]
        return reason if error.filename is None else f"{error.filename}: {reason}"
    return "it is no host:port"


class Scarcity:
    """Logs that connections have to wait, once in ten seconds at most."""

    def __init__(self) -> None:
        """Start without a line written."""
        self._told = float("-inf")

    def tell(self, error: OSError, now: float) -> None:
        """Write a line, where the last one is old enough; ``now``: monotonic seconds."""
        if now - self._told >= _EVERY_SECONDS:
            self._told = now
            log.error("new connections have to wait: %s (the limit is 'ulimit -n')", error.strerror)

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Log connections that ``loop`` could not accept; other errors go to the handler that was there before."""
        before = loop.get_exception_handler() or (lambda _, context: loop.default_exception_handler(context))

        def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            if isinstance(error, OSError) and is_scarcity(error) and "socket" in context:
                self.tell(error, time.monotonic())
            else:
                before(loop, context)

        loop.set_exception_handler(handle)


class _Listening(socket.socket):
    """Reports no connection for a while after ``accept`` found no descriptor, so that asyncio tries once a second."""

    _resting_until = float("-inf")

    def accept(self) -> tuple[socket.socket, Any]:
        if time.monotonic() < self._resting_until:
            raise BlockingIOError(errno.EAGAIN, "resting")
        try:
            return super().accept()
        except OSError as error:
            if is_scarcity(error):
                self._resting_until = time.monotonic() + REST_SECONDS
            raise


def listening(address: str) -> socket.socket:
    """Return a socket bound to ``host:port``, for IPv4 and IPv6 where there is no host.

    Raises OSError where the address is taken, ValueError for none.
    """
    host, _, port = address.rpartition(":")
    check_port(address)
    host = host.removeprefix("[").removesuffix("]")
    both = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
    bound = socket.create_server((host, int(port)), family=family, dualstack_ipv6=both)
    return _Listening(fileno=bound.detach())
