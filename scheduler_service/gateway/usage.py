"""What a response says that it used, and taking out the event that only we asked for. Pure.

Two readers: ``StreamedUsage`` of server-sent events, in chunks as they come, and ``usage_of`` of a whole JSON body.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_MOST_EVENT = 1 << 20
_BLANK = re.compile(rb"\n\r?\n")


@dataclass(frozen=True)
class Used:
    """Tokens as an LLM server counts them; ``None`` where it does not say."""

    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    prompt_tokens: int = 0


def usage_of(found: Any) -> Used | None:
    """The usage of a response, or of a last event; ``None`` where it says none."""
    usage = found.get("usage") if isinstance(found, dict) else None
    if not isinstance(usage, dict):
        return None
    completion = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    if completion is None:
        return None
    details = usage.get("completion_tokens_details", usage.get("output_tokens_details"))
    reasoning = _count(details.get("reasoning_tokens")) if isinstance(details, dict) else None
    prompt = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    # Servers that cannot tell reasoning apart say 0 of it.
    return Used(completion, min(reasoning, completion) if reasoning else None, prompt or 0)


def whole_usage(body: bytes) -> Used | None:
    """The usage of a whole response."""
    try:
        return usage_of(json.loads(body))
    except (ValueError, RecursionError):
        return None


class StreamedUsage:
    """Reads a stream of events for its usage. ``events``: with text in them, each about a token.

    ``take_out``: whether the event that only holds the usage is left out of what goes on.
    """

    def __init__(self, *, take_out: bool) -> None:
        """Nothing has come yet."""
        self.used: Used | None = None
        self.events = 0
        self._take_out = take_out
        self._held = b""

    def feed(self, chunk: bytes, *, last: bool = False) -> bytes:
        """Return what goes on of ``chunk``: all of it, but the usage that nobody asked for.

        An event that has not come to its end is held back, so that it can be left out as a whole.
        """
        data = self._held + chunk
        self._held = b""
        if not last and len(data) <= _MOST_EVENT:
            end = max(at + len(blank) if (at := data.rfind(blank)) >= 0 else 0 for blank in (b"\n\n", b"\n\r\n"))
            data, self._held = data[:end], data[end:]
        self.events += data.count(b"\ndata:") + data.startswith(b"data:")
        if b'"usage"' not in data:
            return data
        kept = []
        for event in _events(data):
            used, alone = _usage_of_event(event)
            self.used = used or self.used
            if not (used and alone and self._take_out):
                kept.append(event)
        return b"".join(kept)


def _events(data: bytes) -> list[bytes]:
    """Split into events, each with the blank line after it; lines end in either way, also within one stream."""
    ends = [0, *(found.end() for found in _BLANK.finditer(data)), len(data)]
    return [data[start:end] for start, end in pairwise(ends) if end > start]


def _usage_of_event(event: bytes) -> tuple[Used | None, bool]:
    """The usage in an event, and whether it says nothing else."""
    text = b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None, False
    if isinstance(found, dict) and isinstance(found.get("response"), dict):  # the Responses API's last event
        return usage_of(found["response"]), False
    return usage_of(found), isinstance(found, dict) and not found.get("choices")


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if whole else None
