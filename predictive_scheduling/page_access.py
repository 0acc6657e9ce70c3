"""Who may see a page for operators: everybody who can connect, or callers that bring its token. Logged at start."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import logging
from collections.abc import Mapping
from dataclasses import dataclass

log = logging.getLogger(__name__)

CHALLENGE: Mapping[str, str] = {"WWW-Authenticate": 'Basic realm="predictive-scheduling", charset="UTF-8"'}


@dataclass(frozen=True, repr=False)
class PageAccess:
    """``token``: what a page asks for, as a bearer token or as the password of any user; empty for nothing."""

    token: str = ""

    def allows(self, authorization: str) -> bool:
        """Whether a request with this ``Authorization`` may see the page."""
        if not self.token:
            return True
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode(errors="replace").partition(":")[2]
            except (binascii.Error, ValueError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(errors="surrogateescape"), self.token.encode())

    def tell(self, page: str, address: str) -> None:
        """Log who may see ``page``; a warning where everybody on the network may."""
        if self.token:
            log.info("%s on %s asks for pages_token", page, address)
        elif on_loopback(address):
            log.info("%s on %s is open to this machine", page, address)
        else:
            log.warning(
                "%s on %s is OPEN to everybody who can connect: set pages_token, or listen on 127.0.0.1", page, address
            )


def on_loopback(address: str) -> bool:
    """Whether ``host:port`` can be reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, or every address
        return False
