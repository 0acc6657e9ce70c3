"""Laws of budget forcing: whatever the model writes, budgets hold and nothing is lost or counted twice."""

from hypothesis import assume, given
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


# What happens to a generation in flight: a piece of the running call, its end, another budget, or a cut.
HAPPENS = st.lists(
    st.tuples(st.just("piece"), st.sampled_from(WORDS), st.integers(0, 8))
    | st.tuples(st.just("end"), st.sampled_from(CallEnd), st.just(0))
    | st.tuples(st.just("budget"), st.just(""), st.integers(0, 40))
    | st.tuples(st.just("cut"), st.just(""), st.just(0)),
    max_size=60,
)
SETTINGS = st.tuples(st.integers(0, 40), st.integers(1, 12), st.sampled_from([0, 5, 1024]), st.booleans())


class InFlight:
    """Drives the machine as ``driver.drive`` does, a happening at a time; checks what holds after each.

    ``largest``: the largest budget that was in force while it reasoned.
    """

    def __init__(self, template, budget, answer_tokens, call_limit, server_budget):
        self.forcing = BudgetForcing(template, "q", budget, answer_tokens, call_limit, server_budget)
        self.answer_tokens, self.largest = answer_tokens, budget
        self.texts: list[Text] = []
        self.calls, self.failed, self.cut_at = 0, False, None
        self.running = self._next()

    @property
    def over(self):
        return self.failed or not self.running

    def _next(self):
        call = self.forcing.next_call()
        self.texts += self.forcing.take()
        self.calls += call is not None
        if self.cut_at is not None and call is not None:
            assert self.forcing._kind is TextKind.ANSWER, "after a cut no call asks for reasoning"
        return call is not None

    def happen(self, what, said, tokens):
        forcing = self.forcing
        if what == "budget":
            forcing.set_budget(tokens)
            if self.cut_at is None:
                self.largest = max(self.largest, tokens)
        elif what == "cut":
            if forcing.reasoning:  # as the pipeline asks before it
                forcing.cut()
                self.cut_at = forcing.reasoning_tokens
        elif what == "end":
            self.failed = not forcing.end_call(said)
            self.running = not self.failed and self._next()
            return self.check()
        elif not (forcing.feed(said, tokens) and forcing.goes_on()):
            self.texts += forcing.take()
            self.running = self._next()
            return self.check()
        self.texts += forcing.take()
        if what != "piece" and not forcing.goes_on():
            self.running = self._next()
        return self.check()

    def check(self):
        forcing = self.forcing
        assert forcing.reasoning_tokens <= self.largest
        assert forcing.answer_used <= self.answer_tokens
        if self.cut_at is not None:
            assert forcing.reasoning_tokens == self.cut_at


def play(happens, template, settings):
    flight = InFlight(template, *settings)
    for what, said, tokens in happens:
        if flight.over:
            break
        flight.happen(what, said, tokens)
    return flight


@given(HAPPENS, BOTH, SETTINGS)
def test_in_any_order_of_pieces_budgets_and_cuts_the_largest_budget_in_force_bounds_the_reasoning(
    happens, template, settings
):
    flight = play(happens, template, settings)
    if flight.forcing.finish is not None:
        by_kind = {kind: sum(text.tokens for text in flight.texts if text.kind is kind) for kind in TextKind}
        assert by_kind[TextKind.REASONING] == flight.forcing.reasoning_tokens
        assert by_kind[TextKind.ANSWER] == flight.forcing.answer_used
    kinds = [text.kind for text in flight.texts]
    assert kinds == sorted(kinds, key=lambda kind: kind is TextKind.ANSWER)


@given(HAPPENS, BOTH, SETTINGS)
def test_whatever_has_happened_a_server_that_goes_on_writing_comes_to_the_end(happens, template, settings):
    flight = play(happens, template, settings)
    begun = flight.calls
    for _ in range(200):
        if flight.over:
            break
        flight.happen("piece", "z", 1)
    assert flight.over
    assert flight.failed or flight.forcing.finish is not None
    assert flight.calls - begun <= 2  # a forced answer, and none that is left


@given(HAPPENS, BOTH, SETTINGS)
def test_whatever_has_happened_a_server_that_says_nothing_comes_to_the_end(happens, template, settings):
    flight = play(happens, template, settings)
    for _ in range(20):
        if flight.over:
            break
        flight.happen("end", CallEnd.MODEL, 0)
    assert flight.over


@given(TOKENS, BOTH, st.integers(2, 40), st.integers(0, 40), st.integers(1, 12), st.booleans())
def test_a_budget_that_was_used_up_when_it_came_ends_the_running_call(
    pieces, template, cap, budget, answer_tokens, server_budget
):
    """As a request that starts before its budget is known. Where it is all that was asked for, the call ends itself."""
    assume(budget < cap)
    flight = InFlight(template, cap, answer_tokens, 1024, server_budget)
    for piece in pieces:
        if flight.over or not flight.forcing.reasoning:
            return
        flight.happen("piece", piece, 1)
        if flight.forcing.reasoning and flight.forcing.reasoning_tokens >= budget:
            used, calls = flight.forcing.reasoning_tokens, flight.calls
            flight.happen("budget", "", budget)
            assert flight.forcing.reasoning_tokens == used
            assert not flight.forcing.reasoning
            assert flight.calls == calls + 1
            return


def test_a_cut_is_not_taken_back_by_a_budget_that_comes_later():
    forcing = BudgetForcing(TEMPLATES["demo"], "q", 40, 8)
    forcing.next_call()
    assert forcing.feed("a", 1)
    forcing.cut()
    forcing.set_budget(30)
    assert not forcing.goes_on()
    assert forcing.next_call().prompt.endswith(TEMPLATES["demo"].answer_suffix)
    assert (forcing.reasoning_tokens, forcing.forced) == (1, True)
