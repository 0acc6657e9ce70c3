"""The page that Prometheus scrapes: ``GET /metrics``, by a thread of its own, so that it needs no web framework."""

from __future__ import annotations

import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from predictive_scheduling.openmetrics import OPENMETRICS, PLAIN, render

log = logging.getLogger(__name__)


class MetricsPage:
    """Serves what ``reader`` collects. ``start`` listens; ``port`` is then where."""

    def __init__(self, reader: InMemoryMetricReader, address: str) -> None:
        """Serve on ``host:port``; port 0 picks one."""
        self._reader, self._address = reader, address
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    def start(self) -> None:
        """Listen. Raises OSError where the address is taken."""
        host, _, port = self._address.rpartition(":")
        self._server = ThreadingHTTPServer((host, int(port)), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="metrics-page", daemon=True).start()
        log.info("metrics on port %d", self.port)

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        reader = self._reader

        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # seconds that a scraper may take to ask

            def do_GET(self) -> None:
                """Answer a scrape."""
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
                """A scrape is not worth a line."""

        return Handler
