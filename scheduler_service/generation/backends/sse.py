"""Server-sent events from bytes, without I/O: lines of any length, any split, both ``data:`` and ``data: ``."""

from __future__ import annotations

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
    _tail: bytearray = field(default_factory=bytearray)
    _data: list[bytes] = field(default_factory=list)
    _size: int = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of each event that ``chunk`` completes."""
        if b"\n" not in chunk:
            self._tail += chunk
            self._check(len(self._tail))
            return []
        if self._tail:
            chunk, self._tail = bytes(self._tail) + chunk, bytearray()
        lines = chunk.split(b"\n")
        self._tail += lines.pop()
        events = []
        for line in lines:
            event = self._take_line(line.removesuffix(b"\r"))
            if event is not None:
                events.append(event)
        self._check(len(self._tail))
        return events

    def _take_line(self, line: bytes) -> bytes | None:
        """Take a whole line; a blank one ends an event."""
        if not line:
            data, self._data, self._size = self._data, [], 0
            return b"\n".join(data) if data else None
        if line.startswith(b"data:"):
            data_of_line = line[6:] if line.startswith(b"data: ") else line[5:]
            self._size += len(data_of_line) + 1
            self._check(0)
            self._data.append(data_of_line)
        return None

    def _check(self, more: int) -> None:
        if self._size + more > self.max_event_bytes:
            raise StreamFormatError(f"an event is longer than {self.max_event_bytes} bytes")
