"""The event parser bounds what it keeps, and counts events one by one."""

import pytest

from scheduler_service.generation.backends.sse import SseParser, StreamFormatError


def test_an_endless_event_is_refused():
    parser = SseParser(max_event_bytes=1000)
    parser.feed(b"data: " + b"x" * 900)
    with pytest.raises(StreamFormatError, match="1000 bytes"):
        parser.feed(b"x" * 100)


@pytest.mark.parametrize("line", [b"data: x\n", b"data:\n"])
def test_an_event_of_endless_lines_is_refused(line):
    parser = SseParser(max_event_bytes=1000)
    with pytest.raises(StreamFormatError, match="1000 bytes"):
        parser.feed(line * 2000)


def test_an_endless_comment_is_refused():
    parser = SseParser(max_event_bytes=1000)
    for _ in range(1000):
        parser.feed(b":")
    with pytest.raises(StreamFormatError, match="1000 bytes"):
        parser.feed(b":")


def test_many_short_events_are_no_long_event():
    parser = SseParser(max_event_bytes=1000)
    assert sum(len(parser.feed(b"data: x\n\n" * 50)) for _ in range(100)) == 5000
