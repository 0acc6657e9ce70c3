"""Budget forcing, one behaviour a test, by a scripted model."""

import pytest

from scheduler_service.domain import FinishReason, TextKind
from scheduler_service.generation.forcing import BudgetForcing, CallEnd, held_back
from scheduler_service.generation.templates import TEMPLATES
from tests.unit.scheduler_service.generation.test_forcing_laws import run

DEMO = TEMPLATES["demo"]


def text(texts, kind):
    return "".join(t.text for t in texts if t.kind is kind)


def test_a_natural_end_of_thinking_is_left_alone():
    forcing, texts = run(["1+2", "\n", "Final", " answer", ":", " 3", "\n\n"], DEMO, budget=20, answer_tokens=6)
    assert forcing.finish is FinishReason.NATURAL
    assert text(texts, TextKind.REASONING) == "1+2\n"
    assert text(texts, TextKind.ANSWER) == " 3"
    assert not any(t.forced for t in texts)
    assert (forcing.reasoning_tokens, forcing.answer_used) == (5, 2)


def test_an_answer_that_starts_inside_the_budget_may_go_on_beyond_it():
    forcing, texts = run(["1", "Final answer:", " 4", "2", "\n\n"], DEMO, budget=3, answer_tokens=6)
    assert forcing.finish is FinishReason.NATURAL
    assert text(texts, TextKind.ANSWER) == " 42"


def test_reasoning_is_cut_exactly_at_its_budget_and_kept_in_the_next_prompt():
    forcing, texts = run(["a", "b", "c", " 7", "\n\n"], DEMO, budget=3, answer_tokens=6)
    assert text(texts, TextKind.REASONING) == "abc"
    assert text(texts, TextKind.ANSWER) == " 7"
    assert forcing.finish is FinishReason.FORCED
    assert all(t.forced for t in texts if t.kind is TextKind.ANSWER)


def test_a_half_written_end_of_thinking_does_not_stand_twice():
    forcing = BudgetForcing(DEMO, "q", 4, 6)
    forcing.next_call()
    for piece in ("a", "\n", "Final", " answer"):
        forcing.feed(piece, 1)
    forcing.end_call(CallEnd.LENGTH)
    call = forcing.next_call()
    assert call is not None
    assert call.prompt == "Question: q\na\nFinal answer:"
    assert forcing.reasoning_tokens == 4


def test_no_reasoning_budget_asks_for_the_answer_at_once():
    forcing, texts = run([" 9", "\n\n"], DEMO, budget=0, answer_tokens=6)
    assert text(texts, TextKind.REASONING) == ""
    assert text(texts, TextKind.ANSWER) == " 9"
    assert forcing.finish is FinishReason.FORCED


def test_an_answer_is_cut_at_its_most_tokens():
    forcing, texts = run(["Final answer:"] + ["x"] * 50, DEMO, budget=5, answer_tokens=6)
    assert forcing.finish is FinishReason.ANSWER_LENGTH
    assert text(texts, TextKind.ANSWER) == "x" * 6


def test_a_forced_answer_shows_how_its_suffix_opened_it():
    _, texts = run(["t", "7}"], TEMPLATES["deepseek-r1"], budget=1, answer_tokens=6)
    assert text(texts, TextKind.ANSWER) == "\n\n**Final Answer**\n\\boxed{7}"


def test_long_budgets_are_asked_for_in_calls_that_tgi_counts_right():
    forcing = BudgetForcing(DEMO, "q", 1500, 10, 1024)
    call = forcing.next_call()
    assert call is not None
    assert call.max_tokens == 1024


def test_text_that_cannot_become_a_marker_is_not_held_back():
    assert held_back("abc", ("Final answer:",)) == 0
    assert held_back("abc Fin", ("Final answer:",)) == 3
    assert held_back("x\n", ("\n\n",)) == 1
    assert held_back("", ("\n\n",)) == 0


R1 = TEMPLATES["deepseek-r1"]


def server_ended(budget, answer_tokens=10, **options):
    forcing = BudgetForcing(R1, "q", budget, answer_tokens, server_budget=True, **options)
    call = forcing.next_call()
    assert call is not None
    return forcing, call


def test_a_server_that_ignores_the_thinking_budget_is_cut_by_the_piece_that_crosses_it():
    forcing, call = server_ended(128)
    assert (call.thinking_budget, call.max_tokens) == (127, 138)
    fed = [forcing.feed("x" * 5, 5) for _ in range(26)]
    assert fed == [True] * 25 + [False]
    assert forcing.reasoning_tokens == 128
    answer = forcing.next_call()
    assert answer is not None
    assert answer.prompt.endswith(R1.answer_suffix)
    assert answer.max_tokens == 10


def test_a_piece_that_crosses_the_budget_with_the_end_of_thinking_in_it_is_read():
    forcing, _ = server_ended(8)
    assert forcing.feed("abcde", 5)
    assert forcing.feed("fg</think>\n4", 5)
    assert forcing.end_call(CallEnd.MODEL)
    texts = forcing.take()
    assert text(texts, TextKind.REASONING) == "abcdefg"
    assert text(texts, TextKind.ANSWER) == "\n4"
    assert (forcing.reasoning_tokens, forcing.answer_used, forcing.finish) == (8, 2, FinishReason.FORCED)


def test_a_server_that_was_told_the_budget_cannot_use_a_larger_one():
    forcing, _ = server_ended(8)
    assert forcing.reasoning
    assert not forcing.grows
    ours = BudgetForcing(R1, "q", 8, 10)
    ours.next_call()
    assert ours.grows


def test_a_generation_that_waits_for_its_slot_takes_a_larger_budget_and_tells_it_to_the_server():
    forcing = BudgetForcing(R1, "q", 8, 10, server_budget=True)
    assert forcing.grows
    forcing.budget = 24
    call = forcing.next_call()
    assert call is not None
    assert call.thinking_budget == 23


def test_an_end_that_the_server_forced_is_told_as_forced_even_if_the_budget_has_grown_since():
    forcing, _ = server_ended(8)
    forcing.budget = 24
    for piece in "abcdefg":
        forcing.feed(piece, 1)
    forcing.feed("</think>", 1)
    forcing.end_call(CallEnd.MODEL)
    assert forcing.finish is FinishReason.FORCED


def test_a_model_that_ends_before_its_servers_budget_ends_naturally():
    forcing, _ = server_ended(8)
    forcing.feed("ab</think>", 3)
    forcing.end_call(CallEnd.MODEL)
    assert forcing.finish is FinishReason.NATURAL


def test_an_answer_goes_on_after_what_closed_the_thinking_not_after_the_suffix():
    forcing, _ = server_ended(3, call_limit=5)
    for piece in ("a", "b", "</think>", "x", "y"):
        forcing.feed(piece, 1)
    forcing.end_call(CallEnd.LENGTH)
    call = forcing.next_call()
    assert call is not None
    assert call.prompt.endswith("ab</think>xy")


def test_a_call_that_brings_nothing_and_ends_nothing_gets_nowhere():
    forcing = BudgetForcing(DEMO, "q", 8, 6)
    forcing.next_call()
    assert not forcing.end_call(CallEnd.LENGTH)


def test_a_server_with_a_smaller_limit_of_its_own_is_asked_again_but_not_for_ever():
    forcing = BudgetForcing(DEMO, "q", 1000, 6)
    calls = 0
    while forcing.reasoning and forcing.next_call() is not None:
        calls += 1
        forcing.feed("x", 1)
        assert forcing.end_call(CallEnd.LENGTH)
    assert (calls, forcing.reasoning_tokens) == (17, 17)


@pytest.mark.parametrize("call_limit", [1, 1024])
def test_a_stop_beyond_the_answers_most_tokens_does_not_make_it_end_naturally(call_limit):
    """However the answer is cut into calls, it ends at its most tokens."""
    forcing, texts = run(["Final answer:", *"aaa", "\n\n"], DEMO, budget=5, answer_tokens=3, call_limit=call_limit)
    assert forcing.finish is FinishReason.ANSWER_LENGTH
    assert text(texts, TextKind.ANSWER) == "aaa"
