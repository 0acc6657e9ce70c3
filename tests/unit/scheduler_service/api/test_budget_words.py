"""What callers' words about a budget mean, and by which name a word is refused that is none."""

import pytest

from scheduler_service.api.budget_words import BudgetWords, Limit, read, weight_of
from scheduler_service.domain import Effort, InvalidRequestError


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, BudgetWords()),
        ({"reasoning_effort": "low"}, BudgetWords(effort=Effort.LOW)),
        ({"reasoning": {"effort": "xhigh", "summary": "auto"}}, BudgetWords(effort=Effort.XHIGH)),
        ({"reasoning_effort": "high", "reasoning": {"effort": "high"}}, BudgetWords(effort=Effort.HIGH)),
        ({"reasoning_effort": "none"}, BudgetWords(cap=0, effort=Effort.NONE)),
        ({"enable_thinking": False}, BudgetWords(cap=0)),
        ({"enable_thinking": True}, BudgetWords()),
        ({"chat_template_kwargs": {"enable_thinking": False, "style": 1}}, BudgetWords(cap=0)),
        ({"chat_template_kwargs": {"enable_thinking": True}}, BudgetWords()),
        ({"chat_template_kwargs": {}}, BudgetWords()),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, BudgetWords(cap=2048)),
        ({"thinking": {"type": "enabled"}}, BudgetWords()),
        ({"thinking": {"type": "adaptive"}}, BudgetWords()),
        ({"thinking": {"type": "disabled"}}, BudgetWords(cap=0)),
        ({"thinking": {"type": "disabled", "budget_tokens": 2048}}, BudgetWords(cap=0)),
        ({"thinking_token_budget": 0}, BudgetWords(cap=0)),
        ({"thinking_budget_tokens": 5}, BudgetWords(cap=5)),
        ({"thinking_budget_tokens": -1, "reasoning_budget_tokens": -1}, BudgetWords()),
        ({"reasoning_budget_tokens": 7, "thinking_budget_tokens": -1}, BudgetWords(cap=7)),
        ({"max_reasoning_tokens": 9, "thinking_token_budget": 8, "thinking": {"type": "enabled", "budget_tokens": 10}},
         BudgetWords(cap=8)),
        ({"min_reasoning_tokens": 3}, BudgetWords(floor=3)),
        ({"max_tokens": 3}, BudgetWords(completion=Limit(3, "max_tokens"))),
        ({"max_output_tokens": 3}, BudgetWords(completion=Limit(3, "max_output_tokens"))),
        ({"max_tokens": 3, "max_completion_tokens": 4}, BudgetWords(completion=Limit(4, "max_completion_tokens"))),
        ({"priority": 50, "weight": 0.5}, BudgetWords(priority=50, factor=0.5)),
        ({"reasoning_effort": None, "thinking": None, "max_tokens": None, "priority": None}, BudgetWords()),
        ({"messages": 5, "tools": [{}], "model": {}, "n": 2}, BudgetWords()),  # which are for who answers
    ],
)  # fmt: skip
def test_each_word_has_its_meaning(body, words):
    assert read(body) == words


HUGE = 10**30


@pytest.mark.parametrize(
    ("body", "name"),
    [
        *(({"reasoning_effort": value}, "reasoning_effort") for value in ("max", "", "HIGH", 1, True, [], {})),
        *(({"reasoning": {"effort": value}}, "reasoning.effort") for value in ("max", 0, False, ["low"])),
        *(({"reasoning": value}, "reasoning") for value in ("high", 1, True, [])),
        *(({"thinking": value}, "thinking") for value in (True, "enabled", 5, [])),
        *(({"thinking": {"type": value}}, "thinking.type") for value in ("on", True, None, {})),
        ({"thinking": {}}, "thinking.type"),
        *(({"thinking": {"type": "enabled", "budget_tokens": value}}, "thinking.budget_tokens")
          for value in (-1, 1.5, "9", True, HUGE, [])),
        *(({"enable_thinking": value}, "enable_thinking") for value in (0, 1, "false", [])),
        *(({"chat_template_kwargs": {"enable_thinking": value}}, "chat_template_kwargs.enable_thinking")
          for value in (0, "no", {})),
        ({"chat_template_kwargs": [False]}, "chat_template_kwargs"),
        *(({name: value}, name) for value in (1.0, "9", True, HUGE, [], {}) for name in (
            "thinking_token_budget", "thinking_budget_tokens", "reasoning_budget_tokens", "min_reasoning_tokens",
            "max_reasoning_tokens", "max_tokens", "max_completion_tokens", "max_output_tokens", "priority")),
        *(({name: -1}, name) for name in (
            "thinking_token_budget", "min_reasoning_tokens", "max_reasoning_tokens", "max_tokens")),
        *(({name: -2}, name) for name in ("thinking_budget_tokens", "reasoning_budget_tokens")),
        *(({name: 0}, name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")),
        *(({"priority": value}, "priority") for value in (-101, 101)),
        *(({"weight": value}, "weight")
          for value in (0, 0.05, -1, 17, HUGE, True, "2", float("nan"), float("inf"), [])),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning.effort"),
    ],
)  # fmt: skip
def test_a_word_that_is_none_is_refused_by_its_name(body, name):
    with pytest.raises(InvalidRequestError) as caught:
        read(body)
    assert [field for field, _ in caught.value.broken] == [name]


def test_every_word_that_is_wrong_is_named():
    with pytest.raises(InvalidRequestError) as caught:
        read({"priority": "high", "enable_thinking": "no", "thinking": {"type": "enabled", "budget_tokens": -1}})
    assert {field for field, _ in caught.value.broken} == {"priority", "enable_thinking", "thinking.budget_tokens"}


@pytest.mark.parametrize("body", [[], "text", 5, None, True])
def test_what_is_no_object_is_no_body(body):
    with pytest.raises(InvalidRequestError, match=r"^body: "):
        read(body)


@pytest.mark.parametrize(
    ("effort", "weight"),
    [(None, 1.0), (Effort.NONE, 1.0), (Effort.MINIMAL, 0.25), (Effort.LOW, 0.5), (Effort.MEDIUM, 1.0),
     (Effort.HIGH, 2.0), (Effort.XHIGH, 4.0)],
)  # fmt: skip
def test_an_effort_is_a_weight(effort, weight):
    assert weight_of(effort, 0) == BudgetWords(effort=effort).weight == weight


@pytest.mark.parametrize(("priority", "weight"), [(-100, 0.25), (-50, 0.5), (0, 1.0), (25, 2**0.5), (100, 4.0)])
def test_a_priority_is_a_weight(priority, weight):
    assert weight_of(None, priority) == BudgetWords(priority=priority).weight == weight


def test_weights_multiply_and_stay_within_a_sixteenth_and_sixteen():
    assert BudgetWords(effort=Effort.HIGH, priority=-50, factor=3.0).weight == 3.0
    assert BudgetWords(effort=Effort.XHIGH, priority=100).weight == 16.0
    assert BudgetWords(effort=Effort.XHIGH, priority=100, factor=16.0).weight == 16.0
    assert BudgetWords(effort=Effort.MINIMAL, priority=-100, factor=1 / 16).weight == 1 / 16
