"""What is sent: a frame with a header in JSON and the states as raw numbers.

A frame is the bytes ``PSF1``, the lengths of header and payload as two unsigned 32-bit numbers (big endian), the
header, and the payload. A datagram holds one frame; a stream holds frames one after another. Headers:

* a state: ``{"id", "layers", "dtype", "size", "prompt_tokens"}``; the payload holds ``size`` numbers of ``dtype``
  (``bfloat16``, ``float16``, ``float32``; little endian) for each of ``layers``, one layer after the other;
* why there is none: ``{"id", "error"}``;
* the end of a request: ``{"id", "generated_tokens"}``, of which the client may have seen fewer.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence

MAGIC = b"PSF1"
LENGTHS = struct.Struct("!4sII")


def frame(header: Mapping[str, object], payload: bytes = b"") -> bytes:
    """Return a frame."""
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return LENGTHS.pack(MAGIC, len(encoded), len(payload)) + encoded + payload


def state(name: str, layers: Sequence[int], dtype: str, size: int, prompt_tokens: int, values: bytes) -> bytes:
    """Return the frame of a state: ``values`` are ``size`` numbers for each of ``layers``."""
    header = {"id": name, "layers": list(layers), "dtype": dtype, "size": size, "prompt_tokens": prompt_tokens}
    return frame(header, values)


def refusal(name: str, error: str) -> bytes:
    """Return the frame that says why there is no state."""
    return frame({"id": name, "error": error})


def end(name: str, generated_tokens: int) -> bytes:
    """Return the frame that says how many tokens a request generated."""
    return frame({"id": name, "generated_tokens": generated_tokens})
