"""Frames from anybody: what fits is read, and everything else is a FrameError."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from predictive_scheduling_vllm import frames

from scheduler_service.generation.report_frames import (
    LENGTHS,
    MAGIC,
    FrameError,
    Generated,
    Refusal,
    State,
    lengths,
    parse_frame,
)

NAME = "0123456789abcdef"
STATE = frames.state(NAME, [16], "float32", 3, 7, np.array([1, 2, 3], "<f4").tobytes())
ANY = [STATE, frames.refusal(NAME, "no layer 3"), frames.end(NAME, 12)]


def header(payload=b"", **said):
    return frames.frame({"id": NAME, **said}, payload)


def test_a_state_has_a_row_for_each_layer_in_its_order():
    values = np.arange(6, dtype="<f4")
    found = parse_frame(frames.state(NAME, [8, 16], "float32", 3, 7, values.tobytes()))
    assert found.layers == (8, 16)
    assert found.values.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_bfloat16_is_the_upper_half_of_a_float32():
    found = parse_frame(frames.state(NAME, [1], "bfloat16", 2, 7, b"\x80\x3f\x00\xc0"))
    assert found.values.tolist() == [[1.0, -2.0]]


def test_unknown_fields_are_left_to_later_versions():
    assert parse_frame(header(generated_tokens=3, later=[1])) == Generated(NAME, 3)


@given(st.sampled_from(ANY), st.data())
def test_no_piece_of_a_frame_is_one_and_none_with_more_behind_it(whole, data):
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(FrameError):
        parse_frame(whole[:cut])
    with pytest.raises(FrameError):
        parse_frame(whole + data.draw(st.binary(min_size=1, max_size=40)))


def parses_or_refuses(data):
    """Read what may be anything; returns whether it was a frame."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = parse_frame(data)
        except FrameError:
            return False
    assert isinstance(found, State | Refusal | Generated)
    assert 16 <= len(found.id) <= 64
    if isinstance(found, State):
        assert found.values.dtype == np.float32
        assert found.values.shape[0] == len(found.layers) >= 1
        assert np.isfinite(found.values).all()
    return True


@given(st.sampled_from(ANY), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_corrupted_frame_is_refused_or_another_frame(whole, changes):
    data = bytearray(whole)
    for at, byte in changes:
        data[at % len(data)] = byte
    parses_or_refuses(bytes(data))


@given(st.binary(max_size=200))
@example(b"PSF1" + b"\xff" * 8)
@example(b"PSF1" + b"\0" * 8)
def test_any_bytes_are_refused(data):
    assert not parses_or_refuses(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(NAME),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["id", "layers", "dtype", "size", "prompt_tokens", "error", "generated_tokens"]


@given(JSON | st.dictionaries(st.sampled_from(FIELDS), JSON), st.binary(max_size=16))
def test_any_json_is_read_or_refused(said, payload):
    encoded = json.dumps(said).encode()
    parses_or_refuses(LENGTHS.pack(MAGIC, len(encoded), len(payload)) + encoded + payload)


@given(st.binary(max_size=60))
@example(b"[" * 4000)
@example(b'{"id":' * 600)
@example(b'{"id": "' + b"\\ud800" * 16 + b'", "generated_tokens": 1}')
@example(b'{"id": "0123456789abcdef", "generated_tokens": ' + b"9" * 4000 + b"}")
@example(b'{"id": "0123456789abcdef", "generated_tokens": 1e3}')
@example(b'{"id": "0123456789abcdef", "generated_tokens": NaN}')
def test_a_header_that_is_no_json_of_ours_is_refused(encoded):
    assert not parses_or_refuses(LENGTHS.pack(MAGIC, len(encoded), 0) + encoded)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@given(st.binary(min_size=4, max_size=40).filter(lambda raw: len(raw) % 4 == 0))
@example(b"\x01\x7c\x01\xfc")  # signalling NaNs, half precision
@example(b"\x01\x00\x80\x7f")
def test_any_numbers_are_finite_or_refused(dtype, raw):
    width = 4 if dtype == "float32" else 2
    parses_or_refuses(frames.state(NAME, [1], dtype, len(raw) // width, 7, raw))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "shorter"),
        (b"GET / HTTP/1.1\r\n\r\n", "begin"),
        (LENGTHS.pack(MAGIC, 4097, 0), "longer"),
        (LENGTHS.pack(MAGIC, 0, (8 << 20) + 1), "longer"),
        (STATE[:-1], "as long as it says"),
        (header(), "neither"),
        (header(layers=[]), "layers"),
        (header(layers=[1], dtype="int8", size=1, payload=b"1"), "dtype"),
        (header(layers=[1], dtype="float32", size=0), "0 bytes"),
        (header(layers=[1], dtype="float32", size=2, payload=b"1234"), "4 bytes"),
        (header(layers=[1, 2], dtype="float32", size=1, payload=b"1234"), "4 bytes"),
        (header(layers=["1"], dtype="float32", size=1, payload=b"1234"), "layers"),
        (header(layers=[1], dtype="float32", size=1, payload=b"\0\0\xc0\x7f"), "finite"),
        (header(generated_tokens=-1), "generated_tokens"),
        (header(generated_tokens=True), "generated_tokens"),
        (header(error="x" * 1025), "error"),
        (frames.frame({"id": "short", "generated_tokens": 1}), "id"),
        (frames.frame({"id": "x" * 65, "generated_tokens": 1}), "id"),
    ],
)
def test_what_is_wrong_is_said(data, why):
    with pytest.raises(FrameError, match=why):
        parse_frame(data)


def test_the_beginning_of_a_stream_says_how_much_to_read():
    length, payload = lengths(STATE[: LENGTHS.size])
    assert LENGTHS.size + length + payload == len(STATE)
