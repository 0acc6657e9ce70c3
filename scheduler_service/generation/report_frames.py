"""What an engine reports of a request, read from the frames that ``predictive-scheduling-vllm`` sends. No I/O.

The format is described in that package (``engines/vllm/predictive_scheduling_vllm/frames.py``): magic bytes, two
lengths, a header in JSON, and raw numbers. Whoever can reach the socket may send anything: nothing is believed here
that does not fit.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

LENGTHS = struct.Struct("!4sII")
MAGIC = b"PSF1"
_LONGEST_HEADER = 4096
_LONGEST_PAYLOAD = 8 << 20
_MOST_TOKENS = 1 << 24


class FrameError(ValueError):
    """The bytes are no frame, or say what cannot be."""


@dataclass(frozen=True, eq=False)
class State:
    """The hidden states of a prompt's last token: one row for each of ``layers``, float32."""

    id: str
    layers: tuple[int, ...]
    values: NDArray[np.float32]
    prompt_tokens: int


@dataclass(frozen=True)
class Refusal:
    """Why the engine sends no state."""

    id: str
    reason: str


@dataclass(frozen=True)
class Generated:
    """How many tokens the engine has generated for a request that is over."""

    id: str
    tokens: int


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    id: str = Field(min_length=16, max_length=64)
    layers: tuple[int, ...] | None = Field(None, min_length=1, max_length=64)
    dtype: str = ""
    size: int = Field(0, ge=0, le=65536)
    prompt_tokens: int = Field(0, ge=0, le=_MOST_TOKENS)
    error: str = Field("", max_length=1024)
    generated_tokens: int | None = Field(None, ge=0, le=_MOST_TOKENS)


def lengths(prefix: bytes) -> tuple[int, int]:
    """Return how long a frame's header and payload are. Raises FrameError for what begins no frame."""
    if len(prefix) < LENGTHS.size:
        raise FrameError("shorter than a frame's beginning")
    magic, header, payload = LENGTHS.unpack_from(prefix)
    if magic != MAGIC:
        raise FrameError("does not begin as a frame")
    if header > _LONGEST_HEADER or payload > _LONGEST_PAYLOAD:
        raise FrameError("longer than any state")
    return header, payload


def parse_frame(data: bytes) -> State | Refusal | Generated:
    """Read one whole frame. Raises FrameError."""
    header_length, payload_length = lengths(data)
    if len(data) != LENGTHS.size + header_length + payload_length:
        raise FrameError("not as long as it says")
    payload = data[LENGTHS.size + header_length :]
    try:
        header = _Header.model_validate_json(data[LENGTHS.size : LENGTHS.size + header_length])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise FrameError(f"{'.'.join(map(str, first['loc'])) or 'header'}: {first['msg']}") from None
    if header.generated_tokens is not None:
        return Generated(header.id, header.generated_tokens)
    if header.error:
        return Refusal(header.id, header.error)
    if header.layers is None:
        raise FrameError("is neither a state, nor says why there is none, nor how a request ended")
    values = _numbers(payload, header.dtype, len(header.layers), header.size)
    return State(header.id, header.layers, values, header.prompt_tokens)


def _numbers(payload: bytes, dtype: str, layers: int, size: int) -> NDArray[np.float32]:
    widths = {"bfloat16": 2, "float16": 2, "float32": 4}
    if dtype not in widths:
        raise FrameError("dtype: must be bfloat16, float16 or float32")
    if not size or len(payload) != widths[dtype] * layers * size:
        raise FrameError(f"holds {len(payload)} bytes for {layers} × {size} numbers of {dtype}")
    if dtype == "bfloat16":  # the upper half of a float32
        raw: NDArray[Any] = (np.frombuffer(payload, "<u2").astype("<u4") << 16).view("<f4")
    else:
        raw = np.frombuffer(payload, "<f2" if dtype == "float16" else "<f4")
    values: NDArray[np.float32] = raw.astype(np.float32).reshape(layers, size)
    if not np.isfinite(values).all():
        raise FrameError("holds a number that is not finite")
    return values
