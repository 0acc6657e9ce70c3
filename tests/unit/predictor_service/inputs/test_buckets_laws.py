"""Laws of the split of a batch into runs of like length."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from predictor_service.inputs.buckets import buckets

lengths = st.lists(st.integers(1, 512), min_size=1, max_size=64)


def cost(split, lengths, run_tokens):
    return sum(max(lengths[row] for row in rows) * len(rows) + run_tokens for rows in split)


@given(lengths)
def test_every_row_runs_once(lengths):
    assert sorted(row for rows in buckets(lengths) for row in rows) == list(range(len(lengths)))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 60))
def test_no_other_split_of_the_sorted_rows_costs_less(lengths, run_tokens):
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    splits = [
        [order[a:b] for a, b in zip((0, *cuts), (*cuts, len(order)), strict=True)]
        for many in range(len(order))
        for cuts in combinations(range(1, len(order)), many)
    ]
    least = min(cost(split, lengths, run_tokens) for split in splits)
    assert cost(buckets(lengths, run_tokens), lengths, run_tokens) == least


@given(st.integers(1, 512), st.integers(1, 64))
def test_rows_of_one_length_stay_together(length, count):
    assert buckets([length] * count) == [list(range(count))]
