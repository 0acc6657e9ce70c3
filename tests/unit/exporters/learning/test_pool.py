"""Samples in memory, or encrypted on disk."""

import base64
import sys

import numpy as np
import pytest

from exporters.learning.pool import KeyFault, Pool, cipher_of
from exporters.learning.samples import Sample
from tests.builders.learning import KEY, STEEP, measured, state

OTHER = "b3RoZXIga2V5IG90aGVyIGtleSBvdGhlciBrZXkgISE="


def filled(path, key=KEY):
    pool = Pool(path, key)
    for at in range(4):
        example = pool.add(Sample(f"secret {at}", "team-x"))
        pool.measured(example.key, measured(example.key, STEEP))
    pool.add(Sample("secret, not measured", "team-x"))
    return pool


def test_a_prompt_counts_once(tmp_path):
    pool = filled(tmp_path / "samples")
    assert pool.add(Sample("secret 1", "another")) is None
    assert Pool(tmp_path / "samples", KEY).add(Sample("secret 1", "another")) is None


def test_a_key_from_a_file_with_an_end_of_line_is_the_same_key(tmp_path):
    filled(tmp_path / "samples", KEY + "\n")
    assert Pool(tmp_path / "samples", KEY).add(Sample("secret 1", "another")) is None


def test_it_goes_on_where_it_was(tmp_path):
    before = filled(tmp_path / "samples").all()
    again = Pool(tmp_path / "samples", KEY)
    assert [(one.number, one.key, one.sample) for one in again.all()] == [
        (one.number, one.key, one.sample) for one in before
    ]
    assert [one.measured is None for one in again.all()] == [False] * 4 + [True]
    assert again.all()[0].measured.accuracy == list(STEEP)
    assert again.add(Sample("new", "team-x")).number == 6


def test_nothing_of_a_prompt_can_be_read_without_the_key(tmp_path):
    filled(tmp_path / "samples")
    written = (tmp_path / "samples").read_bytes()
    assert b"secret" not in written
    assert b"team-x" not in written
    with pytest.raises(KeyFault, match="by another key"):
        Pool(tmp_path / "samples", OTHER)


def test_a_line_that_a_kill_cut_short_is_ignored(tmp_path):
    filled(tmp_path / "samples")
    written = (tmp_path / "samples").read_bytes()
    (tmp_path / "samples").write_bytes(written[:-20])
    assert len(Pool(tmp_path / "samples", KEY).all()) == 4


def test_without_a_key_nothing_is_written_and_keys_differ_from_run_to_run(tmp_path):
    one, other = filled(tmp_path / "samples", ""), filled(tmp_path / "samples", "")
    assert list(tmp_path.iterdir()) == []
    assert {example.key for example in one.all()}.isdisjoint(example.key for example in other.all())


def test_numbers_go_on_after_those_of_an_earlier_run():
    assert Pool(first=8).add(Sample("a", "b")).number == 8


@pytest.mark.parametrize("forgetting", [False, True])
def test_a_prompt_s_state_is_kept_as_the_prompt_is(tmp_path, forgetting):
    values = np.random.default_rng(0).normal(0, 100, 64).astype(np.float16)
    pool = Pool(tmp_path / "samples", KEY)
    for at in range(3):
        example = pool.add(Sample(f"secret {at}", "team-x"))
        pool.measured(example.key, measured(example.key, STEEP), state(values, layer=16) if at else None)
    if forgetting:
        pool.forget(2)
    written = (tmp_path / "samples").read_bytes()
    assert values.tobytes() not in written
    assert base64.b64encode(values.tobytes()) not in written
    found = [example.state for example in Pool(tmp_path / "samples", KEY).all()]
    assert [one and one.origin for one in found] == [*[None] * (not forgetting), (16, 64), (16, 64)]
    assert (found[-1].values == values).all()
    assert found[-1].values.dtype == np.float16


@pytest.mark.parametrize("most", [0, 2, 9])
@pytest.mark.parametrize("key", [KEY, ""])
def test_what_is_forgotten_is_gone_from_the_disk_too(tmp_path, most, key):
    pool = filled(tmp_path / "samples", key)
    pool.forget(most)
    assert [example.number for example in pool.all()] == list(range(1, 6))[5 - min(most, 5) :]
    if key:
        again = Pool(tmp_path / "samples", KEY)
        assert [example.number for example in again.all()] == [example.number for example in pool.all()]


@pytest.mark.parametrize("key", ["short", "x" * 44, "ä", "\n"])
def test_a_key_that_is_none_is_said_to_be(key):
    with pytest.raises(KeyFault, match="the key is none"):
        cipher_of(key)


def test_without_the_extra_a_key_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(KeyFault, match=r"predictive-scheduling\[learn\]"):
        cipher_of(KEY)
