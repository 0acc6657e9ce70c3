"""The final answer in a text."""

import re

import pytest

from predictive_scheduling import extract_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{42}.", "42"),
        ("\\boxed{1} no, \\boxed{\\frac{1}{2}} yes", "\\frac{1}{2}"),
        ("\\boxed{cut off", "cut off"),
        ("First.\n\nThe answer is 7.\n\n", "The answer is 7."),
        ("", ""),
        ("\n \n", ""),
    ],
)
def test_boxed_comes_before_the_last_line(text, answer):
    assert extract_answer(text) == answer


def test_a_pattern_is_the_callers_word():
    text = "answer: 3\nanswer: 4 apples"
    assert extract_answer(text, r"answer: (\d+)") == "4"
    assert extract_answer(text, re.compile(r"\d+ apples")) == "4 apples"
    assert extract_answer(text, r"result: (\d+)") == ""
