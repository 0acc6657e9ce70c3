"""How a chat becomes the one prompt that predictors know: the same wherever a chat comes in. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def joined(turns: Sequence[tuple[str, str]]) -> str:
    """The prompt of a chat, of roles and texts: a lone text as it is, several each after its role.

    The model's template goes around it.
    """
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in turns)


def turns_of(messages: Sequence[Any]) -> list[tuple[str, str]]:
    """Roles and texts of messages as anybody's JSON has them; what has no text is left out."""
    said = [(text_of(str(one.get("role"))), text_of(one.get("content"))) for one in messages if isinstance(one, dict)]
    return [(role, text) for role, text in said if text]


def text_of(content: Any) -> str:
    """The text of a message's content, which may be parts; halves of surrogate pairs, which JSON may hold, as ``?``."""
    if not isinstance(content, str):
        parts = content if isinstance(content, list) else []
        content = "".join(
            part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return str(content.encode(errors="replace").decode())
