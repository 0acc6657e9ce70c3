"""Log lines as OpenTelemetry log records, with the trace in which they were written."""

from __future__ import annotations

import logging

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import get_current
from opentelemetry.sdk._logs import LoggerProvider

_SEVERITIES = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}


class OtlpLogHandler(logging.Handler):
    """Passes records on to ``provider``, but for those of the SDK: a failing exporter would feed itself."""

    def __init__(self, provider: LoggerProvider) -> None:
        """Send to ``provider``."""
        super().__init__()
        self._provider = provider

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on."""
        if record.name.startswith("opentelemetry"):
            return
        attributes: dict[str, str | int] = {"code.file.path": record.pathname, "code.line.number": record.lineno}
        if record.exc_info and record.exc_info[0] is not None:
            attributes["exception.type"] = record.exc_info[0].__name__
            attributes["exception.message"] = str(record.exc_info[1])
        self._provider.get_logger(record.name).emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                severity_number=_SEVERITIES.get(record.levelno, SeverityNumber.INFO),
                severity_text=record.levelname,
                body=record.getMessage(),
                attributes=attributes,
                context=get_current(),
            )
        )

    def shut_down(self) -> None:
        """Send what is still to be sent."""
        self._provider.shutdown()
