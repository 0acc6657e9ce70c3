"""When a request's tokens came: what is counted as a start, as a forced answer's prompt, and as time of tokens."""

from scheduler_service.domain import Text, TextKind
from scheduler_service.pipeline import _Timing

THOUGHT, SUFFIX = Text(TextKind.REASONING, "t", 1), Text(TextKind.ANSWER, " 7 is", 0, forced=True)
FORCED, OWN = Text(TextKind.ANSWER, " 7", 1, forced=True), Text(TextKind.ANSWER, " 7", 1)


def timing(*seen):
    found = _Timing(0.0)
    for text, now in seen:
        found.saw(text, now)
    return found


def test_a_forced_answers_prompt_is_what_lies_between_the_suffix_and_its_first_token():
    found = timing((THOUGHT, 1.0), (THOUGHT, 1.5), (SUFFIX, 1.6), (FORCED, 2.6), (FORCED, 3.0))
    assert found.forcing == 1.0
    assert (found.first, found.tokens, found.seconds_per_token()) == (1.0, 4, 2.0 / 3)


def test_an_answer_of_its_own_and_one_that_never_came_take_nothing():
    assert timing((THOUGHT, 1.0), (OWN, 3.0)).forcing == 0.0
    assert timing((THOUGHT, 1.0), (SUFFIX, 1.6)).forcing == 0.0
