"""Laws of the event parser: the split of the bytes does not matter, and no bytes break it."""

import json

from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.generation.backends.sse import SseParser

PAYLOADS = st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=8)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(PAYLOADS, st.booleans(), st.booleans(), st.lists(st.integers(0, 500), max_size=20))
def test_events_come_out_as_they_went_in_however_the_bytes_are_split(payloads, space, crlf, cuts):
    end = "\r\n" if crlf else "\n"
    lines = [
        f":keep-alive{end}{end}data:{' ' if space else ''}{json.dumps(p, ensure_ascii=False)}{end}{end}"
        for p in payloads
    ]
    parser = SseParser()
    events = [event for chunk in split("".join(lines).encode(), cuts) for event in parser.feed(chunk)]
    assert [json.loads(event) for event in events] == payloads


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_arbitrary_bytes_give_events_or_nothing(chunks):
    parser = SseParser()
    for chunk in chunks:
        assert all(isinstance(event, bytes) for event in parser.feed(chunk))
