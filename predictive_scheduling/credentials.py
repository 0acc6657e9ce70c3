"""TLS for both services and their clients; a server reads its certificate anew when its files change."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import grpc

log = logging.getLogger(__name__)


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


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that follow their files: every handshake sees a renewed certificate. Raises OSError at first.

    A renewal that cannot be read is logged, and the certificate before it stays in use.
    """
    known = files.state()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal known
        try:
            now = files.state()
            if now == known:
                return None
            found = files.configuration()
        except OSError as error:
            log.warning("a renewed certificate cannot be read, the old one stays in use: %s", error)
            return None
        known = now
        log.info("certificate %s was renewed", files.cert)
        return found

    return grpc.dynamic_ssl_server_credentials(
        files.configuration(),
        renewed,  # type: ignore[arg-type]  # None says that nothing changed, which the stubs forget
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
