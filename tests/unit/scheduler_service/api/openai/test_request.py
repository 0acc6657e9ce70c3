"""What both kinds of bodies ask for alike: our own fields, and words about the budget, in the messages of the API."""

import json

import pytest

from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from scheduler_service.api.openai.chat_request import parse_chat
from scheduler_service.api.openai.responses_request import parse_response
from scheduler_service.domain import InvalidRequestError

KINDS = {
    "chat": (parse_chat, {"messages": [{"role": "user", "content": "What is 40 + 2?"}]}),
    "response": (parse_response, {"input": "What is 40 + 2?"}),
}


@pytest.fixture(params=KINDS)
def parsed(request):
    parse, usual = KINDS[request.param]
    return lambda **fields: parse(json.dumps({**usual, **fields}).encode())


def test_the_fields_of_a_body_are_those_of_a_job(parsed):
    sampling = {"temperature": 0.5, "top_p": 0.25, "top_k": 7, "seed": 3}
    own = {"request_id": "r", "model": "m", "tenant": "t", "traces": 2, "weight": 0.5, "priority": -3,
           "min_reasoning_tokens": 1, "max_reasoning_tokens": 2}  # fmt: skip
    job = parsed(**sampling, **own, reasoning_effort="minimal").message().job
    assert job == pb.Job(
        prompt="What is 40 + 2?", sampling=pb.Sampling(**sampling), effort=pb.EFFORT_MINIMAL, **own
    )  # fmt: skip
    assert not parsed().message().job.HasField("max_reasoning_tokens")


def test_the_same_seed_of_64_bits_is_the_same_draw(parsed):
    assert parsed(seed=-1).message().job.sampling.seed == 2**32 - 1
    assert parsed(seed=7).message().job.sampling.seed == 7


def test_words_of_others_are_read_with_the_body(parsed):
    assert parsed(thinking={"type": "enabled", "budget_tokens": 9}).words().cap == 9
    assert parsed(reasoning={"effort": "none", "summary": None}).words().cap == 0
    assert parsed(reasoning={"summary": "auto"}).words().effort is None
    assert parsed(chat_template_kwargs={"enable_thinking": False, "style": None}).words().cap == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reasoning.max_tokens", {"reasoning": {"max_tokens": 5}}),
        ("reasoning.summary", {"reasoning": {"summary": "detailed"}}),
        ("reasoning.summary", {"reasoning": {"summary": ["auto"]}}),
        ("thinking.display", {"thinking": {"type": "enabled", "display": "omitted"}}),
        ("chat_template_kwargs.style", {"chat_template_kwargs": {"style": False}}),
        ("reasoning", {"reasoning": ["effort"]}),
        ("thinking_budget", {"thinking_budget": 5}),
    ],
)
def test_what_a_word_says_besides_is_refused_by_its_name(parsed, name, value):
    with pytest.raises(InvalidRequestError) as caught:
        parsed(**value)
    assert caught.value.field_name == name


def test_an_unknown_effort_is_refused_by_its_name(parsed):
    with pytest.raises(InvalidRequestError, match=r"^reasoning_effort: "):
        parsed(reasoning_effort="max")
