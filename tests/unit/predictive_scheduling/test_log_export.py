"""Log lines leave as OpenTelemetry's log records."""

import logging

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider

from predictive_scheduling.log_export import OtlpLogHandler


def test_log_lines_carry_their_trace_and_the_sdks_own_are_left_out():
    memory = InMemoryLogRecordExporter()
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(memory))
    handler = OtlpLogHandler(provider)
    logger = logging.getLogger("predictive_scheduling.test")
    logger.addHandler(handler)
    logging.getLogger("opentelemetry.test").addHandler(handler)
    try:
        with TracerProvider().get_tracer("t").start_as_current_span("s") as span:
            try:
                raise ValueError("no")
            except ValueError:
                logger.exception("it %s", "failed")
        logging.getLogger("opentelemetry.test").error("export failed")
    finally:
        logger.removeHandler(handler)
        logging.getLogger("opentelemetry.test").removeHandler(handler)
    (record,) = (data.log_record for data in memory.get_finished_logs())
    assert record.body == "it failed"
    assert record.severity_text == "ERROR"
    assert record.trace_id == span.get_span_context().trace_id
    assert record.attributes["exception.type"] == "ValueError"
    handler.shut_down()
