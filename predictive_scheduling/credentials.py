"""TLS for both services and their clients; a server reads its certificate anew when its files change."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio

from predictive_scheduling.listening import check_port

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. ``client_ca``: who signs the clients' certificates, which are then required (mutual TLS)."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def state(self) -> tuple[int, ...]:
        """What changes when a file does."""
        paths = [self.cert, self.key, *([self.client_ca] if self.client_ca else [])]
        return tuple(path.stat().st_mtime_ns for path in paths)

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """The certificate as it is now. Raises OSError where a file cannot be read."""
        ca = self.client_ca.read_bytes() if self.client_ca else None
        return grpc.ssl_server_certificate_configuration([(self.key.read_bytes(), self.cert.read_bytes())], ca)


class Renewals:
    """Follows the files of TLS. A renewal that cannot be read is logged, and what was before it stays in use."""

    def __init__(self, files: TlsFiles) -> None:
        """Follow ``files`` from how they are now. Raises OSError where one cannot be read."""
        self._files, self._known = files, files.state()

    def read(self, reading: Callable[[], T]) -> T | None:
        """Return what ``reading`` returns where the files have changed since the last time; ``None`` where not."""
        try:
            now = self._files.state()
            if now == self._known:
                return None
            found = reading()
        except OSError as error:  # with it ssl.SSLError
            log.warning("a renewed certificate cannot be read, the old one stays in use: %s", error)
            return None
        self._known = now
        log.info("certificate %s was renewed", self._files.cert)
        return found


def bind(server: grpc.aio.Server, address: str, tls: TlsFiles | None) -> int:
    """Let a gRPC server listen at ``address``, with TLS where there is some; returns its port.

    Raises RuntimeError where the address is taken or none, ValueError for a port that there is not, OSError where a
    file of TLS cannot be read.
    """
    check_port(address)
    if tls is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, server_credentials(tls))


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that follow their files: every handshake sees a renewed certificate. Raises OSError at first."""
    renewals = Renewals(files)
    return grpc.dynamic_ssl_server_credentials(
        files.configuration(),
        lambda: renewals.read(files.configuration),  # type: ignore[arg-type,return-value]  # None: nothing changed
        require_client_authentication=files.client_ca is not None,
    )


def channel_credentials(ca: str | Path = "", cert: str | Path = "", key: str | Path = "") -> grpc.ChannelCredentials:
    """Credentials of a caller, from PEM files: ``ca`` signs the server, ``cert`` and ``key`` are the caller's own.

    Without a ``ca``, the system's are trusted.
    Raises OSError for a file that cannot be read, ValueError for a certificate without its key.
    """
    if bool(cert) != bool(key):
        raise ValueError("cert, key: one needs the other")
    read = [Path(name).read_bytes() if name else None for name in (ca, key, cert)]
    return grpc.ssl_channel_credentials(*read)
