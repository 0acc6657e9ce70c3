"""What answers are made of: events on the wire, errors, and what was said."""

from dataclasses import replace

from scheduler_service.api.openai.answer import Fault, Frame, Said
from scheduler_service.domain import FinishReason, Text, TextKind
from tests.builders.jobs import given, used


def test_a_frame_is_json_or_text_and_may_have_a_name():
    assert Frame({"a": "é\n"}).encoded() == b'data: {"a": "\\u00e9\\n"}\n\n'
    assert Frame({"a": 1}, "response.created").encoded() == b'event: response.created\ndata: {"a": 1}\n\n'
    assert Frame("[DONE]").encoded() == b"data: [DONE]\n\n"


def test_a_fault_says_what_is_wrong_and_where():
    assert Fault("bad", "invalid_request_error", "n").body() == {
        "error": {"message": "bad", "type": "invalid_request_error", "param": "n", "code": None}
    }


def test_what_was_said_is_told_by_its_kind_and_counted():
    said = Said()
    texts = [Text(TextKind.REASONING, "a", 1), Text(TextKind.REASONING, "b", 1), Text(TextKind.ANSWER, "c", 1)]
    for event in (texts[0], given(), *texts[1:], used(20)):
        said.add(event)
    assert (said.reasoning, said.answer, said.completion_tokens, said.cut) == ("ab", "c", 25, False)
    assert said.budget() == {
        "policy": "price", "reasoning_budget_tokens": 32, "baseline_tokens": 40, "expected_accuracy": 0.4,
        "prediction_outcome": "fresh", "price": 0.0, "tokens_saved_vs_cap": 44, "forced": False, "traces": 1,
        "votes": 1,
    }  # fmt: skip
    said.add(replace(used(), finish_reason=FinishReason.ANSWER_LENGTH))
    assert said.cut
    assert said.budget()["forced"]
