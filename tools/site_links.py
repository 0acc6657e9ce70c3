"""A hook of the documentation's site: links to files of the repository that are no pages become their names."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn ``[text](../path)`` into ``text`` with the path beside it, where it does not say it already."""
    return _OUTSIDE.sub(_named, markdown)


def _named(link: re.Match[str]) -> str:
    text, path = link[1], link[2]
    return text if path in text.strip("`") else f"{text} (`{path}`)"
