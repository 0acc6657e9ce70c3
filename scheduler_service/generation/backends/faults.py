"""What LLM servers do wrong, translated here and nowhere else: one text for callers, one for the log.

Callers learn what happened, in words of ours. The log gets the server's address and its own words, too; never what was
asked, since a server may quote the prompt in its error.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp.http import HttpProcessingError
from pydantic import ValidationError

from scheduler_service.domain import BackendUnavailableError, PreconditionError
from scheduler_service.generation.backends.base import EndpointBusyError
from scheduler_service.generation.backends.sse import StreamFormatError
from scheduler_service.generation.backends.wire import described

log = logging.getLogger(__name__)

_REFUSED = frozenset({400, 413, 422})
_BUSY = frozenset({429, 503})
_LONGEST_RETRY_SECONDS = 60.0
_MOST_CHARACTERS = 300
_QUOTED = 16  # characters in a row that count as a quotation
_ADDRESS = re.compile(r"\S*://\S+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[[0-9a-fA-F:]{3,}\](?::\d+)?")


class ServerFault(Exception):
    """A server did what it must not. ``what``: for callers, after "the LLM server"; ``detail``: for the log.

    ``busy``: it has no room now. ``insists``: it asks to be left alone for ``retry_seconds``.
    """

    def __init__(
        self, what: str, detail: str = "", *, retry_seconds: float = 1.0, busy: bool = False, insists: bool = False
    ) -> None:
        """Say what it did."""
        super().__init__(what)
        self.what, self.detail, self.retry_seconds = what, detail, retry_seconds
        self.busy, self.insists = busy, insists


# What can be raised while a server is asked; anything else is a fault of ours.
_FOREIGN = (
    ServerFault,
    StreamFormatError,
    ValueError,  # with it pydantic's ValidationError
    OSError,  # with it TimeoutError and ConnectionError
    aiohttp.ClientError,
    HttpProcessingError,
)


class ServerFaults:
    """Translates one server's faults. ``address``: the server's, free of user and password."""

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Translate for ``address``."""
        self._address = address
        self._clock = clock
        self._limit = LogLimit()

    def translated(self, prompt: str = "") -> _Translated:
        """A block whose foreign exceptions become ``BackendUnavailableError``. ``prompt``: what must not be logged."""
        return _Translated(self, prompt)

    def translate(self, error: Exception, prompt: str) -> BackendUnavailableError:
        """Return our error for a foreign one, and log it."""
        fault = _fault_of(error)
        left_out = self._limit.admit(self._clock())
        if left_out is not None:
            detail = f": {tidy(without(fault.detail, prompt))}" if fault.detail else ""
            more = f" ({left_out} more failures were not logged)" if left_out else ""
            log.warning("the LLM server at %s %s%s%s", self._address, fault.what, detail, more)
        what = f"the LLM server {fault.what}"
        if fault.busy or fault.insists:
            return EndpointBusyError(what, fault.retry_seconds, insists=fault.insists)
        return BackendUnavailableError(what, fault.retry_seconds)


class _Translated:
    """What ``ServerFaults.translated`` returns."""

    def __init__(self, faults: ServerFaults, prompt: str) -> None:
        self._faults, self._prompt = faults, prompt

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Raise BackendUnavailableError from what the HTTP client or a parser raised."""
        if isinstance(error, _FOREIGN):
            raise self._faults.translate(error, self._prompt) from None


def _fault_of(error: Exception) -> ServerFault:
    match error:
        case ServerFault():
            return error
        case ValidationError():
            return ServerFault("sent what is not of its protocol", described(error))
        case StreamFormatError():
            return ServerFault("sent more than it was asked for", str(error))
        case TimeoutError():
            return ServerFault("did not answer in time", str(error))
        case aiohttp.ClientConnectorError():
            return ServerFault("cannot be reached", str(error))
        case aiohttp.ClientError() | OSError():
            return ServerFault("broke the connection", f"{type(error).__name__}: {error}")
        case _:
            return ServerFault("sent what is not of its protocol", type(error).__name__)


def http_error(status: int, message: str, retry_after: float | None = None) -> ServerFault | PreconditionError:
    """Return the error for an HTTP status: some say that the request will never do, all others may pass.

    ``retry_after``: seconds that the server asks to be left alone for.
    """
    if status in _REFUSED:
        return PreconditionError("job.prompt", f"the backend refused it: {_ADDRESS.sub('(address)', tidy(message))}")
    what = f"answered HTTP {status}"
    if 300 <= status < 400:
        what += ", a redirect, which is not followed"
    busy, insists = status in _BUSY, retry_after is not None
    return ServerFault(what, message, retry_seconds=retry_after or (1.0 if busy else 5.0), busy=busy, insists=insists)


def retry_seconds(header: str | None, now: datetime) -> float | None:
    """Read ``Retry-After``, seconds or a date; ``None`` where there is none or none that can be read.

    Between 0.1 and 60 seconds: a server must not keep all calls away for a day. ``now``: with its time zone.
    """
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            until = parsedate_to_datetime(header)
            seconds = (until.replace(tzinfo=until.tzinfo or now.tzinfo) - now).total_seconds()
        except (ValueError, OverflowError):
            return None
    if not math.isfinite(seconds):
        return None
    return min(_LONGEST_RETRY_SECONDS, max(0.1, seconds))


def tidy(text: str) -> str:
    """One line of printable characters, not too long: fit for a log and for a status message."""
    line = " ".join("".join(mark if mark.isprintable() else " " for mark in text[: 4 * _MOST_CHARACTERS]).split())
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…"


def without(message: str, prompt: str) -> str:
    """The message, or only that there was one, where it quotes the prompt."""
    message = message[: 4 * _MOST_CHARACTERS]
    if len(prompt) < _QUOTED // 2:
        return message
    length = min(_QUOTED, len(prompt))
    quotes = any(message[at : at + length] in prompt for at in range(len(message) - length + 1))
    return "(its message quotes the prompt)" if quotes else message


@dataclass
class LogLimit:
    """How many lines a repeated failure may write: ``most`` in ``seconds``, the others are counted. Pure."""

    most: int = 3
    seconds: float = 10.0
    _began: float = -math.inf
    _written: int = 0
    _left_out: int = 0

    def admit(self, now: float) -> int | None:
        """Return how many lines were left out before this one; ``None`` to leave this one out, too."""
        if now - self._began >= self.seconds:
            self._began, self._written = now, 0
        if self._written >= self.most:
            self._left_out += 1
            return None
        self._written += 1
        left_out, self._left_out = self._left_out, 0
        return left_out
