"""The driver: budget forcing against a backend, with backends that get nowhere."""

import pytest

from scheduler_service.domain import BackendUnavailableError, Sampling, TextKind
from scheduler_service.generation.backends.base import Ended, Piece
from scheduler_service.generation.driver import drive
from scheduler_service.generation.forcing import BudgetForcing, CallEnd, ReportRequest
from scheduler_service.generation.templates import TEMPLATES
from tests.standins.backend import ScriptedBackend


class Says(ScriptedBackend):
    """Says the same in every call, whatever it is asked for."""

    def __init__(self, *pieces):
        super().__init__(lambda _: [])
        self.pieces = pieces

    async def stream(self, call, sampling, headers):
        self.calls.append(call)
        for piece in self.pieces:
            yield piece


def forcing(budget=128, **options):
    return BudgetForcing(TEMPLATES["deepseek-r1"], "q", budget, 8, **options)


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([Ended(CallEnd.LENGTH)], "without a token"),
        ([Piece("", 0), Piece("x", 0), Ended(CallEnd.LENGTH)], "without a token"),
        ([], "before its last event"),
    ],
)
async def test_a_backend_that_gets_nowhere_is_called_once(pieces, words):
    backend = Says(*pieces)
    with pytest.raises(BackendUnavailableError, match=words):
        [text async for text in drive(backend, forcing(), Sampling())]
    assert len(backend.calls) == 1


async def test_a_call_that_breaks_off_is_gone_on_with_from_what_it_brought():
    class Breaks(Says):
        async def stream(self, call, sampling, headers):
            self.calls.append(call)
            if len(self.calls) <= 2:
                yield Piece(f"thought {len(self.calls)}. </th", 4)
                raise BackendUnavailableError("the LLM server went away")
            yield Piece("ink> 42", 3)
            yield Ended(CallEnd.MODEL)

    backend, machine = Breaks(), forcing(budget=16)
    texts = [text async for text in drive(backend, machine, Sampling())]
    assert [call.prompt.partition("<think>\n")[2] for call in backend.calls] == [
        "", "thought 1. </th", "thought 1. </ththought 2. </th",
    ]  # fmt: skip
    assert [call.max_tokens for call in backend.calls] == [16, 12, 8]
    assert "".join(text.text for text in texts if text.kind is TextKind.ANSWER) == " 42"
    assert machine.reasoning_tokens + machine.answer_used == 11


async def test_the_first_call_alone_asks_for_the_report():
    backend = ScriptedBackend(lambda _: ["x"] * 20)
    report = ReportRequest("unix:/r.sock", "a" * 32, (3,))
    [text async for text in drive(backend, forcing(budget=16), Sampling(), report=report)]
    assert [call.report for call in backend.calls] == [report, None]


async def test_a_generation_whose_every_call_breaks_off_fails_after_a_few():
    backend = Says(Piece("x", 1))
    with pytest.raises(BackendUnavailableError, match="before its last event"):
        [text async for text in drive(backend, forcing(), Sampling())]
    assert len(backend.calls) == 4


async def test_a_backend_that_claims_a_thousand_million_tokens_spends_the_budget_once():
    backend = Says(Piece("x", 10**9), Ended(CallEnd.LENGTH))
    machine = forcing()
    texts = [text async for text in drive(backend, machine, Sampling())]
    assert len(backend.calls) == 2
    assert (machine.reasoning_tokens, machine.answer_used) == (128, 8)
    assert sum(text.tokens for text in texts if text.kind is TextKind.REASONING) == 128


async def test_a_backend_that_never_stops_is_read_to_the_limits():
    backend = Says(*[Piece("xxxxx", 5)] * 10_000)
    machine = forcing(server_budget=True)
    [text async for text in drive(backend, machine, Sampling())]
    assert len(backend.calls) == 2
    assert (machine.reasoning_tokens, machine.answer_used) == (128, 8)
