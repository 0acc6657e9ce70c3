"""Accuracy by labels, and without: laws of agreement, on whatever models answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.measure.checkers import checker, exact
from exporters.measure.judging import Agreeing, Labelled, agreement, judge_of
from exporters.measure.questions import Question

# What models say: nothing, white space, several lines, another case, brackets that were cut off.
SAID = st.sampled_from(["", " ", "\n", "yes", "Yes.", "no", "no\nyes", "\\boxed{1", "1", "𝟙", "}{"])
TRACES = st.integers(1, 4).flatmap(
    lambda points: st.lists(st.lists(SAID, min_size=points, max_size=points), min_size=2, max_size=5)
)


def test_a_trace_is_held_against_the_ends_of_the_others_only():
    answers = [["a", "b"], ["b", "c"], ["c", "b"]]
    # Pairs (one's answer at the first point, another's end): a-c, a-b; b-b, b-b; c-b, c-c.
    assert agreement(answers, exact) == [3 / 6, 2 / 6]


@given(TRACES)
def test_agreement_is_a_fraction_and_does_not_depend_on_the_order_of_traces(answers):
    found = agreement(answers, exact)
    assert len(found) == len(answers[0])
    assert all(0 <= value <= 1 for value in found)
    assert agreement(answers[::-1], exact) == pytest.approx(found)


@given(TRACES)
def test_traces_that_all_say_the_same_agree_and_those_that_say_nothing_never_do(answers):
    same = [["yes"] * len(trace) for trace in answers]
    assert agreement(same, exact) == [1.0] * len(same[0])
    silent = [["" for _ in trace] for trace in answers]
    assert agreement(silent, exact) == [0.0] * len(silent[0])


def test_one_trace_agrees_with_nobody():
    with pytest.raises(ValueError, match="at least two traces"):
        agreement([["a", "b"]], exact)


def test_by_maths_an_answer_that_was_cut_off_is_the_same_as_the_whole_one():
    judge = judge_of("agreement:maths", checker)
    cut = [["\\boxed{12", "\\boxed{0.5"], ["\\boxed{7}", "\\boxed{\\frac{1}{2}}"]]
    assert judge.accuracy(Question("q", "?", None), cut) == [0.0, 1.0]


def test_labels_are_used_where_there_are_any():
    judge = judge_of("agreement", checker)
    labelled, unlabelled = Question("a", "?", "no"), Question("b", "?", None)
    answers = [["no", "yes"], ["yes", "yes"]]
    assert (judge.judged_by(labelled), judge.accuracy(labelled, answers)) == ("expected", [0.5, 0.0])
    assert (judge.judged_by(unlabelled), judge.accuracy(unlabelled, answers)) == ("agreement", [0.5, 1.0])


def test_a_checker_alone_needs_labels():
    judge = judge_of("exact", checker)
    assert isinstance(judge, Labelled)
    assert isinstance(judge_of("agreement", checker), Agreeing)
    for ask in (judge.judged_by, lambda question: judge.accuracy(question, [["a"]])):
        with pytest.raises(ValueError, match="question q: no expected"):
            ask(Question("q", "?", None))
    with pytest.raises(ValueError, match="neither exact nor maths"):
        judge_of("agreement:nobody", checker)
