"""The connector's frames are what the scheduler reads: one format, written twice."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from predictive_scheduling_vllm import frames

from scheduler_service.generation.report_frames import LENGTHS, MAGIC, Generated, Refusal, lengths, parse_frame

NAMES = st.text("0123456789abcdef-_Z", min_size=16, max_size=64)


def test_both_packages_mean_the_same_bytes():
    assert frames.MAGIC == MAGIC
    assert frames.LENGTHS.format == LENGTHS.format


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@given(
    name=NAMES,
    layers=st.lists(st.integers(0, 9999), min_size=1, max_size=5),
    size=st.integers(1, 9),
    prompt_tokens=st.integers(0, 1 << 24),
    seed=st.integers(0, 999),
)
def test_a_state_of_any_type_comes_back_as_its_numbers(dtype, name, layers, size, prompt_tokens, seed):
    torch.manual_seed(seed)
    values = (torch.randn(len(layers), size) * 100).to(getattr(torch, dtype))
    raw = values.view(torch.uint8).numpy().tobytes()
    found = parse_frame(frames.state(name, layers, dtype, size, prompt_tokens, raw))
    assert (found.id, found.layers, found.prompt_tokens) == (name, tuple(layers), prompt_tokens)
    assert found.values.dtype == np.float32
    assert np.array_equal(found.values, values.float().numpy())


@given(NAMES, st.text(min_size=1, max_size=200).filter(lambda text: text.isprintable()))
def test_a_refusal_comes_back_with_its_reason(name, reason):
    assert parse_frame(frames.refusal(name, reason)) == Refusal(name, reason)


@given(NAMES, st.integers(0, 1 << 24))
def test_an_end_comes_back_with_its_tokens(name, tokens):
    assert parse_frame(frames.end(name, tokens)) == Generated(name, tokens)


@given(NAMES, st.binary(max_size=50), st.binary(max_size=50))
def test_a_stream_of_frames_is_cut_where_they_end(name, first, second):
    stream = frames.frame({"id": name}, first) + frames.frame({"id": name}, second)
    for payload in (first, second):
        header, length = lengths(stream)
        begin = LENGTHS.size + header
        assert json.loads(stream[LENGTHS.size : begin]) == {"id": name}
        assert stream[begin : begin + length] == payload
        stream = stream[begin + length :]
    assert stream == b""
