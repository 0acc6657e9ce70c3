"""The name of a grant, which its request carries as a header to the engine and into Envoy's access log."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote

_SETTLED_BY = re.compile(r"[^@]*@([0-9a-f]{12})\.([1-9][0-9]{0,14})")


class GrantName(NamedTuple):
    """What a grant is settled by. ``instance``: the scheduler that decided; ``number``: which of its grants it is."""

    instance: str
    number: int


def written(name: GrantName, key: tuple[str, str]) -> str:
    """The name as a header: ``tenant/request@instance.number``. ``key``: ``Job.key``, there for who reads logs."""
    whose = "/".join(quote(part, safe="") for part in key if part)
    return f"{whose}@{name.instance}.{name.number}"


def read(text: str) -> GrantName | None:
    """What a header names; ``None`` for anything that no scheduler has written."""
    found = _SETTLED_BY.fullmatch(text)
    return None if found is None else GrantName(found[1], int(found[2]))
