"""When an answer is right."""

import pytest

from exporters.measure.checkers import checker, exact


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (" 12", True),
        (" 12.\n", True),
        ("12\n\nmore", True),
        (" 13", False),
        ("", False),
        (" 12 or 13", False),
        ("\n", False),
    ],
)
def test_an_answer_is_right_when_its_first_line_states_it(text, right):
    assert exact("12", text) is right


@pytest.mark.parametrize(
    ("expected", "answer", "equal"),
    [
        ("72", "\n\n**Final Answer**\n\\boxed{72}", True),
        ("72", "\\boxed{72", True),
        ("0.5", "\\boxed{\\frac{1}{2}}", True),
        ("1000", "\\boxed{1,000}", True),
        ("72", "\\boxed{73}", False),
        ("72", "", False),
    ],
)
def test_mathematical_answers_are_compared_by_value(expected, answer, equal):
    assert checker("maths")(expected, answer) is equal


def test_checkers_are_found_by_name_or_refused():
    assert checker("exact")("Yes", " yes.\nmore")
    assert checker("exporters.measure.checkers:exact")("a", "A")
    for name in ("nope", "os:nope", "nomodule:f", "os:name"):
        with pytest.raises(ValueError, match="--check"):
            checker(name)
