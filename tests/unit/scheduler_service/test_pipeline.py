"""When a request's tokens came: what is counted as a start, as a forced answer's prompt, and as time of tokens.

And which plans are made beside the loop.
"""

import threading
from unittest import mock

import pytest

from scheduler_service.allocation import POLICIES
from scheduler_service.budget.ledger import BudgetLedger
from scheduler_service.domain import Job, Prediction, PredictionOutcome, Text, TextKind
from scheduler_service.pipeline import Pipeline, _Timing
from scheduler_service.planning.plan import Rules, plan_window

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


@pytest.mark.parametrize(("policy", "aside"), [("exact", True), ("envelope", False), ("", False)])
async def test_the_optimum_even_of_one_request_is_planned_beside_the_loop(policy, aside):
    parts = dict.fromkeys(("allocator", "expectations", "dispatcher", "predictor", "template", "admission"))
    pipeline = Pipeline(**parts, ledger=BudgetLedger(16), rules=Rules(POLICIES["greedy"], 8))
    threads = []

    def planned(*arguments):
        threads.append(threading.current_thread())
        return plan_window(*arguments)

    with mock.patch("scheduler_service.pipeline.plan_window", planned):
        await pipeline.plan([Job("a", "", "", 0, 16)], [Prediction(PredictionOutcome.TIMEOUT)], 0, policy)
    assert [thread is not threading.main_thread() for thread in threads] == [aside]
