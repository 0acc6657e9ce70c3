"""Budget forcing, one behaviour a test, by a scripted model."""

from scheduler_service.domain import FinishReason, TextKind
from scheduler_service.generation.forcing import held_back
from scheduler_service.generation.templates import TEMPLATES
from tests.properties.test_forcing_laws import run

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
    from scheduler_service.generation.forcing import BudgetForcing, CallEnd

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
    from scheduler_service.generation.forcing import BudgetForcing

    forcing = BudgetForcing(DEMO, "q", 1500, 10, 1024)
    call = forcing.next_call()
    assert call is not None
    assert call.max_tokens == 1024


def test_text_that_cannot_become_a_marker_is_not_held_back():
    assert held_back("abc", ("Final answer:",)) == 0
    assert held_back("abc Fin", ("Final answer:",)) == 3
    assert held_back("x\n", ("\n\n",)) == 1
    assert held_back("", ("\n\n",)) == 0
