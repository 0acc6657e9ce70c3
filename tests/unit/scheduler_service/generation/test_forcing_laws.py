"""Laws of budget forcing: whatever the model writes, budgets hold and nothing is lost or counted twice."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.domain import FinishReason, Text, TextKind
from scheduler_service.generation.forcing import BudgetForcing, CallEnd
from scheduler_service.generation.templates import TEMPLATES

WORDS = ["a", "b ", "1", "\n", "Final", " answer", ":", "Final answer:", "\n\n", "<", "</think>", "é", ""]
TOKENS = st.lists(st.sampled_from(WORDS), max_size=60)
BOTH = st.sampled_from([TEMPLATES["demo"], TEMPLATES["deepseek-r1"]])


def run(pieces, template, budget, answer_tokens, call_limit=1024):
    """Play a model that writes ``pieces`` whatever it is asked; returns the forcing and the texts it emitted."""
    forcing = BudgetForcing(template, "q", budget, answer_tokens, call_limit)
    texts: list[Text] = []
    script = iter(pieces)
    while (call := forcing.next_call()) is not None:
        assert 1 <= call.max_tokens <= call_limit
        end = CallEnd.LENGTH
        for _ in range(call.max_tokens):
            piece = next(script, None)
            if piece is None:
                end = CallEnd.MODEL
                break
            more = forcing.feed(piece, 1)
            texts += forcing.take()
            if not more:
                end = None
                break
        if end is not None:
            assert forcing.end_call(end)
        texts += forcing.take()
    return forcing, texts


@given(TOKENS, BOTH, st.integers(0, 40), st.integers(1, 12))
def test_budgets_hold_and_every_token_is_emitted_once(pieces, template, budget, answer_tokens):
    forcing, texts = run(pieces, template, budget, answer_tokens)
    assert forcing.finish is not None
    assert forcing.reasoning_tokens <= budget
    assert forcing.answer_used <= answer_tokens
    by_kind = {kind: sum(text.tokens for text in texts if text.kind is kind) for kind in TextKind}
    assert by_kind[TextKind.REASONING] == forcing.reasoning_tokens
    assert by_kind[TextKind.ANSWER] == forcing.answer_used


# A call of a server that keeps to nothing: pieces of any number of tokens, past any limit, and any end.
WILD_CALLS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(WORDS), st.integers(0, 8) | st.just(10**9)), max_size=30),
        st.sampled_from(CallEnd),
    ),
    max_size=40,
)


@given(WILD_CALLS, BOTH, st.integers(0, 40), st.integers(1, 12), st.sampled_from([0, 5, 1024]), st.booleans())
def test_whatever_a_server_writes_or_claims_every_call_gets_somewhere_or_fails(
    script, template, budget, answer_tokens, call_limit, server_budget
):
    forcing = BudgetForcing(template, "q", budget, answer_tokens, call_limit, server_budget)
    texts: list[Text] = []
    calls = failed = 0
    script = iter(script)
    while not failed and forcing.next_call() is not None:
        calls += 1
        texts += forcing.take()
        before = (forcing.reasoning, forcing.reasoning_tokens + forcing.answer_used)
        pieces, end = next(script, ([], CallEnd.LENGTH))
        if all(forcing.feed(text, tokens) for text, tokens in pieces):
            failed = not forcing.end_call(end)
        texts += forcing.take()
        after = (forcing.reasoning, forcing.reasoning_tokens + forcing.answer_used)
        assert failed or forcing.finish is not None or before != after
    texts += forcing.take()
    assert failed or forcing.finish is not None
    assert forcing.reasoning_tokens <= budget
    assert forcing.answer_used <= answer_tokens
    whole = 0 if not call_limit else (budget + answer_tokens) // call_limit
    assert calls <= whole + 16 + 5  # as many as tokens fill, those that may be short, and each end's own
    if forcing.finish is not None:
        by_kind = {kind: sum(text.tokens for text in texts if text.kind is kind) for kind in TextKind}
        assert by_kind == {TextKind.REASONING: forcing.reasoning_tokens, TextKind.ANSWER: forcing.answer_used}


@given(TOKENS, st.integers(0, 40), st.integers(1, 12))
def test_reasoning_comes_before_the_answer_and_holds_no_marker(pieces, budget, answer_tokens):
    template = TEMPLATES["demo"]
    _, texts = run(pieces, template, budget, answer_tokens)
    kinds = [text.kind for text in texts]
    assert kinds == sorted(kinds, key=lambda kind: kind is TextKind.ANSWER)
    reasoning = "".join(text.text for text in texts if text.kind is TextKind.REASONING)
    answer = "".join(text.text for text in texts if text.kind is TextKind.ANSWER)
    assert template.think_end not in reasoning
    assert not any(stop in answer for stop in template.stop)


@given(TOKENS, st.integers(0, 40), st.integers(1, 12), st.integers(1, 7))
def test_short_calls_change_nothing_that_is_emitted(pieces, budget, answer_tokens, call_limit):
    # A model that ends a call early sees the next call as a new end, so only endless ones compare.
    endless = [*pieces, *["z"] * 60]
    whole, texts = run(endless, TEMPLATES["demo"], budget, answer_tokens)
    cut, cut_texts = run(endless, TEMPLATES["demo"], budget, answer_tokens, call_limit)
    assert whole.finish == cut.finish
    assert "".join(t.text for t in texts) == "".join(t.text for t in cut_texts)
    assert (whole.reasoning_tokens, whole.answer_used) == (cut.reasoning_tokens, cut.answer_used)


@given(TOKENS, st.integers(0, 40), st.integers(1, 12))
def test_an_answer_is_forced_exactly_when_the_model_did_not_end_its_reasoning(pieces, budget, answer_tokens):
    forcing, _ = run(pieces, TEMPLATES["demo"], budget, answer_tokens)
    ended = TEMPLATES["demo"].think_end in "".join(pieces[:budget])
    assert forcing.forced is not ended
    if forcing.finish is FinishReason.NATURAL:
        assert ended
