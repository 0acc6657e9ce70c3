"""Streams of the four protocols, right ones and ones that are nearly right."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ODD: list[Any] = [
    None, True, 5, -7, 0, 10**12, 10**30, 1.5, float("nan"), float("inf"), "", "text", "\ud800", "x" * 3_000_000,
    [], {}, [1], [[]], {"text": "x"}, ["x"], [None],
]  # fmt: skip

RAW = [
    b"data:null\n\n",
    b"data:5\n\n",
    b"data: {}\n\n",
    b"data: []\n\n",
    b"data: not json\n\n",
    b'data: "\\ud800"\n\n',
    b"data: " + b"[" * 50_000 + b"\n\n",
    b'data: {"a":' * 20_000 + b"\n\n",
    b"data: " + b"9" * 10_000 + b"\n\n",
    b"data: [DONE]\n\n",
    b"data:\n\n",
    b"\xff\xfe\x00\n\n",
    b":\n\n" * 100,
    b'data: {"error": null}\n\n',
    b'data: {"error": "no", "error_type": "overloaded"}\n\n',
    b'data: {"error": {"message": "no", "code": 500}}\n\n',
    b'data: {"error": {"message": ["no"], "code": {}}}\n\n',
    b'data: {"error": {"code": "' + b"9" * 5_000 + b'"}}\n\n',
    b'data: {"choices":[{"text":"","finish_reason":"length"}]}\n\n',
]


def events(kind: str, tokens: int, *, ends: str = "length", chat: bool = False) -> list[dict[str, Any]]:
    """A stream of ``tokens`` tokens as the server of that kind writes it."""
    made: list[dict[str, Any]] = []
    for at in range(1, tokens + 1):
        last = at == tokens
        if kind == "tgi":
            details = {"finish_reason": ends, "generated_tokens": tokens, "seed": None, "input_length": 5}
            token = {"id": at, "text": f" {at}", "logprob": -0.1, "special": False}
            whole = {"generated_text": "all", "details": details} if last else {"generated_text": None, "details": None}
            made.append({"index": at, "token": token, **whole})
        elif kind == "llama_cpp":
            made.append({"index": 0, "content": f" {at}", "tokens": [at], "stop": False, "tokens_predicted": at})
        else:
            said: dict[str, Any] = {"delta": {"content": f" {at}"}} if chat else {"text": f" {at}"}
            usage = {"prompt_tokens": 5, "completion_tokens": at, "total_tokens": 5 + at}
            made.append({"id": "c", "choices": [{"index": 0, **said, "finish_reason": None}], "usage": usage})
    if kind == "llama_cpp":
        stop = "limit" if ends == "length" else "eos"
        made.append({"content": "", "tokens": [], "stop": True, "stop_type": stop, "tokens_evaluated": 5})
    elif kind != "tgi":
        empty: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        made.append({"id": "c", "choices": [{"index": 0, **empty, "finish_reason": ends}]})
        usage = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}
        made.append({"id": "c", "choices": [], "usage": usage})
    return made


def encoded(event: Any) -> bytes:
    """An event on the wire."""
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def mutated(rng: random.Random, stream: list[dict[str, Any]]) -> list[bytes]:
    """The stream on the wire with some values exchanged, events lost, doubled, and strange ones put in."""
    stream = copy.deepcopy(stream)
    for _ in range(rng.randint(0, 2)):
        if stream:
            _exchange(rng, stream[rng.randrange(len(stream))])
    lines = [encoded(event) for event in stream]
    for _ in range(rng.randint(0, 2)):
        at = rng.randint(0, len(lines))
        match rng.randint(0, 4):
            case 0:
                lines[at:at] = [rng.choice(RAW)]
            case 1:
                del lines[at : at + 1]
            case 2:
                lines[at:at] = lines[at : at + 1]
            case 3:
                lines = lines[:at]
            case _:
                line = lines[at - 1] if lines else b""
                cut = rng.randint(0, len(line))
                lines[at - 1 : at] = [line[:cut] + rng.randbytes(2) + line[cut + 1 :]]
    return lines


def _exchange(rng: random.Random, value: Any) -> None:
    """Exchange one value, at any depth."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        inner = value[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.7:
            value = inner
            continue
        if isinstance(value, dict) and rng.random() < 0.2:
            del value[key]
        else:
            value[key] = copy.deepcopy(rng.choice(ODD))
        return
