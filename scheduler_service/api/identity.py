"""Who calls: a bearer token or a client certificate names the tenant. Pure; the wire is the API's."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scheduler_service.domain import PermissionDeniedError, UnauthenticatedError


@dataclass(frozen=True)
class Identity:
    """Decides for whom a call is made. ``tokens``: digest of a token → its tenant; empty asks for none.

    ``by_certificate``: where there are no tokens, the common name of the client's certificate is the tenant.
    """

    tokens: Mapping[bytes, str] = field(default_factory=dict)
    by_certificate: bool = False

    @property
    def known(self) -> bool:
        """Whether callers have identities at all."""
        return bool(self.tokens) or self.by_certificate

    def tenant(self, authorization: str, common_name: str, asked: str) -> str:
        """Return the tenant of a call that asks to be made for ``asked`` (empty: its own).

        Raises UnauthenticatedError for a token that is missing or unknown, PermissionDeniedError for another's name.
        """
        known = asked
        if self.tokens:
            scheme, _, token = authorization.partition(" ")
            if scheme.lower() != "bearer" or not token:
                raise UnauthenticatedError("send 'authorization: Bearer TOKEN'")
            known = self._tenant_of(token.strip())
        elif self.by_certificate:
            known = common_name
        if asked and asked != known:
            raise PermissionDeniedError(f"job.tenant: {asked!r} is not the caller's")
        return known

    def _tenant_of(self, token: str) -> str:
        wanted = _digest(token)
        # Every token is compared, each in constant time, so that the time tells nothing.
        found = [tenant for digest, tenant in self.tokens.items() if hmac.compare_digest(digest, wanted)]
        if not found:
            raise UnauthenticatedError("the token is not known")
        return found[0]


def read_tokens(path: Path) -> dict[bytes, str]:
    """Read ``token tenant`` lines; only digests are kept. Raises ValueError with the line of the first fault."""
    found: dict[bytes, str] = {}
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ValueError(f"auth_tokens: {path}: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split()
        if len(parts) != 2:
            raise ValueError(f"auth_tokens: {path}: line {number}: must be a token and its tenant")
        found[_digest(parts[0])] = parts[1]
    if not found:
        raise ValueError(f"auth_tokens: {path}: holds no token")
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
