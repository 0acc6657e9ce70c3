"""The body of a chat completion or completion as it passes a gateway: what it asks for, and how a budget gets in. Pure.

A gateway must not change what it does not know: bytes of fields that are not ours stay as they are, in their order. A
field that a body does not have yet is put in front of the others; only one that it has makes it be written anew.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from predictive_scheduling.chat_prompt import joined, text_of, turns_of

_ROUTES = {"/chat/completions": "messages", "/completions": "prompt", "/responses": "input"}
_MOST_INFLATED = 16 << 20
_MOST_VALUES = 1 << 18  # commas and brackets, which bound them; to read so many takes a tenth of a second


class UnreadableError(ValueError):
    """A body is left as it is; the message says why, in one of few words that metrics may count by."""


@dataclass(frozen=True)
class Body:
    """A body that was understood. ``prompt``: its text; ``choices``: answers that it asks for; ``streamed``.

    ``fields``: the whole JSON object. ``prompt_field``: the one that holds the prompt, by which APIs differ.
    ``reports_usage``: whether its stream ends with what was used.
    """

    raw: bytes
    fields: dict[str, Any]
    prompt_field: str
    prompt: str
    choices: int
    streamed: bool
    reports_usage: bool

    @property
    def limit_field(self) -> str:
        """The field by which this request limits its tokens: the one of its API, whatever else it has."""
        match self.prompt_field:
            case "input":
                return "max_output_tokens"
            case "messages" if "max_completion_tokens" in self.fields:
                return "max_completion_tokens"
            case _:
                return "max_tokens"

    def number(self, name: str) -> int | None:
        """A field that holds a whole number."""
        value = self.fields.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def prompt_field(path: str) -> str:
    """The field that holds the prompt of requests to ``path``. Raises UnreadableError where it is no route of ours."""
    bare = path.partition("?")[0].rstrip("/")
    for route, field in _ROUTES.items():
        if bare.endswith(route):
            return field
    raise UnreadableError("route")


def inflate(raw: bytes, encoding: str) -> bytes:
    """Undo a Content-Encoding. Raises UnreadableError for one that is not known, or bytes that are not so encoded."""
    match encoding.strip().lower():
        case "" | "identity":
            return raw
        case "gzip" | "x-gzip":
            window = 16 + zlib.MAX_WBITS
        case "deflate":
            window = zlib.MAX_WBITS
        case _:
            raise UnreadableError("encoding")
    unpacking = zlib.decompressobj(window)
    try:
        found = unpacking.decompress(raw, _MOST_INFLATED)
    except zlib.error:
        raise UnreadableError("encoding") from None
    if unpacking.unconsumed_tail:
        raise UnreadableError("size")
    if not unpacking.eof:
        raise UnreadableError("encoding")
    return found


def read(raw: bytes, field: str) -> Body:
    """Understand a body whose prompt is in ``field``. Raises UnreadableError for anything else."""
    if sum(map(raw.count, (b"[", b"{", b","))) > _MOST_VALUES:
        raise UnreadableError("size")
    try:
        # Python would read UTF-16 as well, but a budget is written in UTF-8.
        found = json.loads(raw.decode("utf-8-sig", "surrogatepass"))
    except (ValueError, RecursionError):
        raise UnreadableError("json") from None
    if not isinstance(found, dict):
        raise UnreadableError("json")
    given = found.get(field)
    prompt = _prompt(given, found.get("instructions"))
    if not prompt or (field == "messages" and not isinstance(given, list)):
        raise UnreadableError("prompt")
    choices = found.get("n")
    if choices is None:
        choices = 1
    if not isinstance(choices, int) or isinstance(choices, bool) or choices < 1:  # engines take "8" for 8
        raise UnreadableError("choices")
    options = found.get("stream_options")
    return Body(
        raw,
        found,
        field,
        prompt,
        choices,
        found.get("stream") is True,
        isinstance(options, dict) and options.get("include_usage") is True,
    )


def rewritten(body: Body, values: Mapping[str, Any]) -> bytes:
    """The body with ``values``, by their path (``a`` or ``a.b``)."""
    fresh = {path: value for path, value in values.items() if path.partition(".")[0] not in body.fields}
    if len(fresh) == len(values):
        start = body.raw.index(b"{") + 1
        nested = json.dumps(_nested({}, values)).encode()[1:-1]
        return body.raw[:start] + nested + b", " + body.raw[start:]
    return json.dumps(_nested(json.loads(body.raw), values), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _nested(into: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    for path, value in values.items():
        *parents, name = path.split(".")
        place = into
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[name] = value
    return into


def _prompt(given: Any, instructions: Any) -> str:
    """The text of a prompt: a string, or messages; a lone one as it is, several each after its role."""
    if isinstance(given, list) and given and all(isinstance(one, str) for one in given):
        return text_of(given[0]) if len(given) == 1 else ""  # several prompts in one request
    turns = turns_of(given if isinstance(given, list) else [{"role": "user", "content": given}])
    if isinstance(instructions, str) and instructions:
        turns = [("system", text_of(instructions)), *turns]
    return joined(turns)
