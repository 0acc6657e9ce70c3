"""The page that Prometheus scrapes: ``GET /metrics``, by a thread of its own, so that it needs no web framework."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from predictive_scheduling.listening import REST_SECONDS, Scarcity, is_scarcity, listening, listens
from predictive_scheduling.openmetrics import OPENMETRICS, PLAIN, render
from predictive_scheduling.page_access import CHALLENGE, PageAccess

log = logging.getLogger(__name__)


_SECONDS = 10.0  # that a connection may last
_CONNECTIONS = 16  # at once; each has a thread


class _Server(ThreadingHTTPServer):
    """Takes so many connections, each for so long, however steadily it trickles.

    Rests where there is no descriptor for a connection, which stays there to be accepted.
    """

    daemon_threads = True
    scarcity = Scarcity()

    def __init__(self, address: str, handler: type[BaseHTTPRequestHandler]) -> None:
        """Listen at ``host:port``, IPv6 too. Raises OSError or ValueError where that cannot be."""
        super().__init__(("", 0), handler, bind_and_activate=False)
        self.socket.close()  # which knows IPv4 alone
        self.socket = listening(address)
        self.server_port = self.socket.getsockname()[1]
        self._places = threading.BoundedSemaphore(_CONNECTIONS)

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if is_scarcity(error):
                self.scarcity.tell(error, time.monotonic())
                time.sleep(REST_SECONDS)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is a place; without one the connection is closed."""
        return self._places.acquire(blocking=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread; where none can be had, the place is another's."""
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, and cut it off where it lasts too long."""
        late = threading.Timer(_SECONDS, _cut_off, [request])
        late.daemon = True
        try:
            late.start()
            super().process_request_thread(request, client_address)
        except RuntimeError:  # no thread could be had to cut it off
            self.shutdown_request(request)
        finally:
            late.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is its client's affair; anything else is ours."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            log.error("the metrics page fails", exc_info=error)


def _cut_off(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class MetricsPage:
    """Serves what ``reader`` collects. ``start`` listens; ``port`` is then where."""

    def __init__(self, reader: InMemoryMetricReader, address: str, access: PageAccess | None = None) -> None:
        """Serve on ``host:port``; port 0 picks one. ``access``: who may see it; everybody where it is not given."""
        self._reader, self._address, self._access = reader, address, access or PageAccess()
        self._server: _Server | None = None
        self.port = 0

    def start(self) -> None:
        """Listen. Raises ListenError where the address is taken."""
        with listens("metrics_listen", self._address):
            self._server = _Server(self._address, self._handler())
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="metrics-page", daemon=True).start()
        log.info("metrics on port %d", self.port)
        self._access.tell("the metrics page", f"{self._address.rpartition(':')[0]}:{self.port}")

    def stop(self) -> None:
        """Stop listening, and close the socket."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        reader, access = self._reader, self._access

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                """Answer a scrape, in OpenMetrics where the caller takes it."""
                if not access.allows(self.headers.get("Authorization", "")):
                    self.send_response(401, "this page asks for pages_token")
                    for name, value in CHALLENGE.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404, "metrics are at /metrics")
                    return
                openmetrics = "application/openmetrics-text" in self.headers.get("Accept", "")
                body = render(reader.get_metrics_data(), openmetrics=openmetrics).encode()
                self.send_response(200)
                self.send_header("Content-Type", OPENMETRICS if openmetrics else PLAIN)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing: a line for every scrape would fill the log."""

        return Handler
