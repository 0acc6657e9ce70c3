"""What a chat completion asks for, how its budget gets in, and what it used."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some

from predictive_scheduling.chat_budgets import Asked, asked_of, budgeted, pace_of, prompt_of, used_of
from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from scheduler_service.api.budget_words import BudgetFields
from scheduler_service.api.openai.chat_request import parse_chat

FIELD = "thinking_token_budget"
ANYTHING = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=5) | some.just("\ud800"),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NUMBERS = some.integers(-2, 2**33) | ANYTHING
BODIES = some.fixed_dictionaries(
    {},
    optional={
        "messages": ANYTHING
        | some.lists(
            some.fixed_dictionaries(
                {},
                optional={
                    "role": ANYTHING,
                    "content": ANYTHING | some.lists(some.fixed_dictionaries({"text": ANYTHING})),
                },
            ),
            max_size=3,
        ),
        "n": NUMBERS,
        "max_tokens": NUMBERS,
        "max_completion_tokens": NUMBERS,
        "reasoning_effort": ANYTHING,
        FIELD: NUMBERS,
        "extra_body": ANYTHING | some.dictionaries(some.just(FIELD), NUMBERS),
    },
)


def message(content, role="user"):
    return {"role": role, "content": content}


CONVERSATIONS = [
    [message("How many?")],
    [message("Be brief.", "system"), message("How many?"), message("Two.", "assistant"), message("Sure?")],
    [message([{"type": "text", "text": "How "}, {"type": "text", "text": "many?"}])],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_a_prompt_is_the_one_of_the_schedulers_own_http_api(messages):
    assert prompt_of(messages) == parse_chat(json.dumps({"messages": messages}).encode()).prompt


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([message("Look."), message([{"type": "image_url", "image_url": {"url": "data:"}}])], "Look."),
        ([message("Call it."), message(None, "assistant"), message("42", "tool")], "User: Call it.\n\nTool: 42"),
        ([message("half \ud83d")], "half ?"),
        ([], ""),
        ("How many?", ""),
        (["How many?"], ""),
        (None, ""),
    ],
)
def test_only_text_is_a_prompt(messages, prompt):
    assert prompt_of(messages) == prompt


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, Asked("q")),
        ({"n": 3, "max_tokens": 10}, Asked("q", 3, 10)),
        ({"max_tokens": 10, "max_completion_tokens": 20}, Asked("q", 1, 20)),
        ({"max_tokens": 0, "n": None}, Asked("q")),
        ({"max_tokens": True, "n": 1}, Asked("q")),
        ({"reasoning_effort": "high"}, Asked("q", effort="high")),
        ({"reasoning_effort": "most"}, Asked("q")),
        ({"reasoning_effort": ["high"]}, Asked("q")),
        *[({"n": n}, None) for n in (65, 0, -1, "2", 2.0, True, [2])],
        ({"messages": [message("q", "\ud800"), message("r")]}, Asked("?: q\n\nUser: r")),
        ({"messages": [message("q" * (2**20 + 1))]}, None),
        ({"messages": []}, None),
    ],
)
def test_what_a_body_asks_for(fields, asked):
    assert asked_of({"messages": [message("q")], **fields}) == asked


def test_all_answers_together_have_the_tokens_of_each():
    assert Asked("q", 3, 10).all_tokens == 30
    assert Asked("q", 64, 2**32 - 1).all_tokens == 2**32 - 1
    assert Asked("q", 3).all_tokens is None
    assert Asked("q", 3, 10).job_fields() == {"prompt": "q", "traces": 3}


@pytest.mark.parametrize("word", ["none", "minimal", "low", "medium", "high", "xhigh"])
def test_every_effort_is_one_of_the_schedulers(word):
    assert BudgetFields(reasoning_effort=word)
    job = pb.Job(**asked_of({"messages": [message("q")], "reasoning_effort": word}).job_fields())
    assert job.effort == pb.Effort.Value(f"EFFORT_{word.upper()}") != pb.EFFORT_UNSPECIFIED


@pytest.mark.parametrize(
    ("body", "field", "changed"),
    [
        ({}, FIELD, {"extra_body": {FIELD: 16}}),
        ({"extra_body": {"top_k": 1}}, FIELD, {"extra_body": {"top_k": 1, FIELD: 16}}),
        ({FIELD: 5}, FIELD, {"extra_body": {FIELD: 5}}),
        ({FIELD: 50}, FIELD, {"extra_body": {FIELD: 16}}),
        ({FIELD: -1}, FIELD, {"extra_body": {FIELD: 16}}),
        ({"extra_body": {FIELD: 0}}, FIELD, {"extra_body": {FIELD: 0}}),
        ({"extra_body": {FIELD: 7}, FIELD: 5}, FIELD, {"extra_body": {FIELD: 7}}),
        ({"extra_body": "?"}, FIELD, {"extra_body": {FIELD: 16}}),
        ({"kwargs": {"x": 1}}, "kwargs.budget", {"extra_body": {"kwargs": {"x": 1, "budget": 16}}}),
        ({"extra_body": {"a": {"b": 3}}}, "a.b.c", {"extra_body": {"a": {"b": {"c": 16}}}}),
        ({}, "", {"max_tokens": 18}),
        ({"max_tokens": 50}, "", {"max_tokens": 18}),
        ({"max_tokens": 10}, "", {"max_tokens": 10}),
        ({"max_completion_tokens": 50}, "", {"max_completion_tokens": 18}),
        ({"max_tokens": None}, "", {"max_tokens": 18}),
    ],
)
def test_a_budget_gets_in_unless_the_caller_has_a_lower_limit(body, field, changed):
    before = json.dumps(body)
    assert budgeted({"model": "m", **body}, 16, 2, field) == {"model": "m", **changed}
    assert json.dumps(body) == before


@given(body=BODIES, budget=some.integers(0, 1000), field=some.sampled_from(["", FIELD, f"extra.{FIELD}"]))
def test_whatever_a_body_holds_its_budget_is_never_more_than_was_granted(body, budget, field):
    asked = asked_of(body)
    if asked is not None:
        assert asked.prompt.encode()
        assert 1 <= asked.choices <= 64
    changed = budgeted(body, budget, 2, field)
    if not field:
        assert min(changed[name] for name in ("max_tokens", "max_completion_tokens") if _number(changed.get(name))) <= (
            budget + 2
        )
        return
    place = changed["extra_body"]
    for name in field.split("."):
        place = place[name]
    assert 0 <= place <= budget
    assert field.split(".")[0] not in changed


def _number(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@pytest.mark.parametrize(
    ("usage", "used"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 18}, {"prompt_tokens": 9, "completion_tokens": 18}),
        (
            {"completion_tokens": 18, "completion_tokens_details": {"reasoning_tokens": 16}},
            {"prompt_tokens": 0, "completion_tokens": 18, "reasoning_tokens": 16},
        ),
        (
            {"completion_tokens": 18, "completion_tokens_details": {"reasoning_tokens": 99}},
            {"prompt_tokens": 0, "completion_tokens": 18, "reasoning_tokens": 18},
        ),
        (
            {"completion_tokens": 18, "completion_tokens_details": {"reasoning_tokens": 0}},
            {"prompt_tokens": 0, "completion_tokens": 18},
        ),
        ({"completion_tokens_details": {"reasoning_tokens": 4}}, {"prompt_tokens": 0}),
        ({"prompt_tokens": None, "completion_tokens": "18"}, {"prompt_tokens": 0}),
    ],
)
def test_a_usage_tells_what_was_used(usage, used):
    assert used_of(usage) == used


def test_a_stream_tells_its_pace():
    assert pace_of(10.0, 10.5, 12.5, 5) == {"first_token_seconds": 0.5, "seconds_per_token": 0.5}
    assert pace_of(10.0, 9.0, 8.0, 5) == {"first_token_seconds": 0.0, "seconds_per_token": 0.0}
    assert pace_of(10.0, 10.5, 10.5, 1) == {"first_token_seconds": 0.5}
