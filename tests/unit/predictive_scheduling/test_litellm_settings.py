"""The variables of LiteLLM's callback."""

import pytest
from pydantic import ValidationError

from predictive_scheduling.litellm_settings import LiteLlmSettings


@pytest.fixture
def told(monkeypatch):
    def tell(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"PREDICTIVE_SCHEDULING_{name}", value)
        return LiteLlmSettings()

    return tell


def test_an_address_is_enough(told):
    settings = told(SCHEDULER="scheduler:50051")
    assert (settings.scheduler, settings.timeout_ms) == ("scheduler:50051", 150.0)
    assert settings.budget_field == "thinking_token_budget"
    assert settings.budgets("any")


def test_models_are_named_by_commas(told):
    settings = told(SCHEDULER="s:1", MODELS="small, large,")
    assert [settings.budgets(name) for name in ("small", "large", "cloud", "", None)] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_tokens_are_not_shown(told):
    assert "secret" not in repr(told(SCHEDULER="s:1", TOKEN="secret"))


@pytest.mark.parametrize(
    ("variables", "field"),
    [
        ({}, "scheduler"),
        ({"SCHEDULER": ""}, "scheduler"),
        ({"SCHEDULER": "s:1", "TIMEOUT_MS": "0"}, "timeout_ms"),
        ({"SCHEDULER": "s:1", "TIMEOUT_MS": "soon"}, "timeout_ms"),
        ({"SCHEDULER": "s:1", "BUDGET_FIELD": "a..b"}, "budget_field"),
        ({"SCHEDULER": "s:1", "BUDGET_FIELD": "a b"}, "budget_field"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(told, variables, field):
    with pytest.raises(ValidationError, match=field):
        told(**variables)
