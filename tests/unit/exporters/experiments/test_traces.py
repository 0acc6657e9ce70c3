"""Votes over several traces: counted exactly over all subsets, with ties by lot."""

import numpy as np
import pytest

from exporters.experiments.traces import traces_table, vote, vote_curve, vote_curves
from exporters.measure.checkers import canonical, exact

RIGHT = frozenset({"4"})


@pytest.mark.parametrize(
    ("answers", "chance"),
    [
        (["4"], 1.0),
        (["5"], 0.0),
        (["4", "5"], 0.5),
        (["4", "5", "5"], 0.0),
        (["4", "4", "5"], 1.0),
        (["4", "5", "6"], 1 / 3),
        (["", "", "4"], 1.0),
        (["", ""], 0.0),
    ],
)
def test_the_most_frequent_answer_wins_and_lots_break_ties(answers, chance):
    assert vote(answers, RIGHT) == pytest.approx(chance)


def test_one_trace_is_the_mean_accuracy_and_all_traces_are_one_vote():
    answers = [["5", "4"], ["6", "4"], ["4", "5"], ["5", "4"]]
    assert vote_curve(answers, RIGHT, 1) == pytest.approx([0.25, 0.75])
    assert vote_curve(answers, RIGHT, 4) == pytest.approx([0.0, 1.0])
    # Two of four, second window: both right in 3 of 6 pairs, one of each in the other 3.
    assert vote_curve(answers, RIGHT, 2)[1] == pytest.approx(0.75)


def test_many_traces_are_sampled():
    rng = np.random.default_rng(1)
    answers = [["4" if rng.random() < 0.7 else str(rng.integers(5, 99))] for _ in range(40)]
    assert 0.95 < vote_curve(answers, RIGHT, 8)[0] <= 1.0


def test_answers_that_mean_the_same_are_counted_together():
    found = vote_curves([[["4."], [" 4 "], ["5"]]], ["4"], exact, canonical("exact"))
    assert found[3].tolist() == [1.0]
    maths = canonical("maths")
    assert maths("\\boxed{\\frac{1}{2}}") == maths("\\boxed{0.5}") != maths("\\boxed{0.6}")
    assert maths("\\boxed{1,000}") == maths("\\boxed{1000}")
    assert maths("\\boxed{x + y}") == maths("\\boxed{y + x}")
    assert maths("no number") == "no number"


def test_the_table_compares_at_equal_total_tokens():
    curves = {1: np.array([0.1, 0.2, 0.3, 0.4]), 2: np.array([0.2, 0.5, 0.5, 0.5])}
    table = traces_table(curves)
    rows = {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}
    assert rows["1"]["64 tokens"] == "40.0"
    assert rows["2"]["64 tokens"] == "50.0"
    assert rows["1"]["128 tokens"] == ""
