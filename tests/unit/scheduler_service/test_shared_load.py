"""What schedulers tell each other of their load; whatever else is in the store is not believed."""

import json
import math
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.shared_load import Load, SharedLoad, read_load

LOADS = st.builds(Load, *[st.floats(0, 1e9)] * 6)
NUMBERS = st.integers() | st.integers(-9, 4000).map(lambda digits: 10 ** max(0, digits))
JUNK = st.one_of(
    st.text(),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=7),
        max_leaves=9,
    ).map(json.dumps),
    st.lists(st.floats(allow_nan=True) | NUMBERS, min_size=6, max_size=6).map(json.dumps),
)


class Script:
    """Stands in for the store: answers what it is given, or fails."""

    def __init__(self):
        self.answers, self.told = [], []

    def register_script(self, _):
        async def exchange(keys, args):
            self.told.append((keys, args))
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return exchange


@given(LOADS)
def test_a_load_is_read_as_it_was_written(load):
    assert read_load(json.dumps(astuple(load)).encode()) == load


@given(JUNK)
def test_whatever_stands_there_is_a_finite_load_or_none(raw):
    load = read_load(raw)
    many = Load() if load is None else load.times(1000)
    assert all(isinstance(value, float) and 0 <= value < math.inf for value in astuple(many))


@pytest.mark.parametrize("raw", [b"[" * 100_000, b"\xff", f"[1{'0' * 400}, 1, 1, 1, 1, 1]", "[1e308, 1, 1, 1, 1, 1]"])
def test_what_no_scheduler_writes_is_no_load(raw):
    assert read_load(raw) is None


async def test_the_others_are_added_and_strange_ones_taken_as_this_one():
    store, own = Script(), Load(1, 2, 3, 4, 5, 6)
    shared = SharedLoad(store, "me", "k")
    store.answers = [[b"[1, 1, 1, 1, 1, 1]", b"[2, 2, 2, 2, 2, 2]", b"{}"], []]
    assert await shared.exchange(own) == Load(4, 5, 6, 7, 8, 9)
    assert shared.others == 3
    keys, (me, _, told) = store.told[0]
    assert (keys, me, json.loads(told)) == (["{k}:loads", "{k}:load-beats"], "me", [1, 2, 3, 4, 5, 6])
    assert await shared.exchange(own) == Load()


async def test_while_the_store_is_away_the_others_are_taken_to_have_as_much_each(caplog):
    store, own = Script(), Load(1, 2, 3, 4, 5, 6)
    shared = SharedLoad(store, "me")
    store.answers = [[b"[9, 9, 9, 9, 9, 9]"] * 2, OSError("away"), OSError("away"), [b"[7, 7, 7, 7, 7, 7]"]]
    await shared.exchange(own)
    for _ in range(2):
        assert await shared.exchange(own) == own.times(2)
        assert shared.away
    assert await shared.exchange(own) == Load(7, 7, 7, 7, 7, 7)
    assert not shared.away
    assert len([record for record in caplog.records if "away" in record.message]) == 1


def test_loads_add_up():
    assert Load(1, 2, 3, 4, 5, 6) + Load(6, 5, 4, 3, 2, 1) == Load(7, 7, 7, 7, 7, 7)
    assert Load(1, 2, 3, 4, 5, 6).times(0) == Load()
    assert astuple(Load(0.5).times(3)) == pytest.approx((1.5, 0, 0, 0, 0, 0))
