r"""What a generated answer says: the last ``\boxed{…}``, what a pattern finds, or the last line."""

from __future__ import annotations

import re

_BOXED = r"\boxed{"


def extract_answer(text: str, pattern: str | re.Pattern[str] | None = None) -> str:
    r"""Return the final answer in a text.

    With ``pattern``, its last match: the first group, or the whole match where it has none. Without, the content of the
    last ``\boxed{…}`` (braces may nest; one that was cut off counts to the end), else the last line that is not empty.
    Empty where there is nothing of the kind.
    """
    if pattern is not None:
        found = list(re.finditer(pattern, text))
        if not found:
            return ""
        last = found[-1]
        return str(last.group(1) if last.re.groups else last.group()).strip()
    start = text.rfind(_BOXED)
    if start >= 0:
        return _within_braces(text[start + len(_BOXED) :]).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _within_braces(text: str) -> str:
    depth = 1
    for at, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if not depth:
            return text[:at]
    return text
