"""Server-sent events from bytes, without I/O: lines of any length, any split, both ``data:`` and ``data: ``."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field


class StreamFormatError(Exception):
    """The bytes are not a stream of events that we can hold."""


@dataclass
class SseParser:
    """Feed it bytes as they come; it returns the data of the events that are complete.

    Comments (keep-alives) and unknown fields are skipped, as the standard says. ``max_event_bytes`` bounds what a
    server can make us hold; beyond it ``StreamFormatError`` is raised.
    """

    max_event_bytes: int = 4 << 20
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )
    _tail: list[str] = field(default_factory=list)
    _size: int = 0
    _data: list[str] = field(default_factory=list)

    def feed(self, chunk: bytes) -> list[str]:
        """Return the data of each event that ``chunk`` completes."""
        self._size += len(chunk)
        if self._size > self.max_event_bytes:
            raise StreamFormatError(f"an event is longer than {self.max_event_bytes} bytes")
        self._tail.append(self._decoder.decode(chunk))
        if b"\n" not in chunk and b"\r" not in chunk:
            return []
        lines = "".join(self._tail).replace("\r\n", "\n").split("\n")
        rest = lines.pop()
        events = []
        for line in lines:
            event = self._take_line(line.rstrip("\r"))
            if event is not None:
                events.append(event)
        self._tail = [rest]
        self._size = len(rest) + sum(map(len, self._data))
        return events

    def _take_line(self, line: str) -> str | None:
        """Take a whole line; a blank one ends an event."""
        if not line:
            data, self._data = self._data, []
            return "\n".join(data) if data else None
        if line.startswith("data:"):
            self._data.append(line[6:] if line.startswith("data: ") else line[5:])
        return None
