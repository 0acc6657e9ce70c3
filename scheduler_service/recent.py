"""The last so many things by tenant and request id. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Remembers the last ``keep`` values. An id belongs to its tenant: two tenants may use the same one.

    A caller that may see all tenants' (``tenant`` is ``None``) finds the newest of an id.
    """

    def __init__(self, keep: int) -> None:
        """Remember nothing yet."""
        self.keep = keep
        self._values: OrderedDict[tuple[str, str], T] = OrderedDict()
        self._tenants: dict[str, dict[str, None]] = {}  # of each id, the last that used it at the end

    def put(self, tenant: str, request_id: str, value: T) -> None:
        """Remember a value as the newest, in the place of the tenant's older one of that id."""
        self.pop(tenant, request_id)
        self._values[tenant, request_id] = value
        self._tenants.setdefault(request_id, {})[tenant] = None
        while len(self._values) > self.keep:
            self.pop(*next(iter(self._values)))

    def get(self, tenant: str | None, request_id: str) -> T | None:
        """The value of an id, while it is remembered."""
        return self._values.get((self._owner(tenant, request_id), request_id))

    def pop(self, tenant: str | None, request_id: str) -> T | None:
        """Forget an id; returns what was remembered."""
        owner = self._owner(tenant, request_id)
        if (owner, request_id) not in self._values:
            return None
        del self._tenants[request_id][owner]
        if not self._tenants[request_id]:
            del self._tenants[request_id]
        return self._values.pop((owner, request_id))

    def _owner(self, tenant: str | None, request_id: str) -> str:
        """The tenant itself; for all, who used an id last, or nobody's name where it is not known."""
        return next(reversed(self._tenants.get(request_id, {})), "") if tenant is None else tenant

    def newest_first(self) -> Iterator[T]:
        """What is remembered."""
        return iter(reversed(self._values.values()))

    def __len__(self) -> int:
        """How many values are remembered."""
        return len(self._values)
