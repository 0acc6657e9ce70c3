"""Settings come from the environment and from flags, are checked, and are printed without secrets."""

import logging

import pytest
from pydantic import ValidationError

from predictor_service.settings import PredictorSettings
from scheduler_service.settings import SchedulerSettings


def test_a_flag_beats_the_environment(monkeypatch):
    monkeypatch.setenv("SCHEDULER_BACKEND", "embedded")
    monkeypatch.setenv("SCHEDULER_TOKENS_PER_QUERY", "64")
    assert SchedulerSettings().tokens_per_query == 64
    assert SchedulerSettings(tokens_per_query=32).tokens_per_query == 32


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"backend": "tgi"}, "backend_url"),
        ({"backend": "embedded", "template": "nope"}, "template"),
        ({"backend": "embedded", "policy": "nope"}, "policy"),
        ({"backend": "embedded", "floor_tokens": 200}, "tokens_per_query"),
        ({"backend": "embedded", "window_size": 0}, "window_size"),
        ({"backend": "nope"}, "backend"),
        ({"backend": "embedded", "policy": "target"}, "target_accuracy"),
        ({"backend": "embedded", "target_accuracy": 0.5}, "target_accuracy"),
        ({"backend": "embedded", "budget_per": "second"}, "budget_tokens"),
        ({"backend": "embedded", "policy": "price", "budget_per": "window", "budget_tokens": 64}, "policy: price"),
        ({"backend": "embedded", "policy": "price", "tenant_shares": {"a": 1}}, "policy: price"),
        ({"backend": "embedded", "tenant_shares": {"a": 0}}, "tenant_shares"),
        ({"backend": "embedded", "policy": "exact", "window_size": 4096}, "window_size"),
    ],
)
def test_a_wrong_setting_is_named(given, named):
    with pytest.raises(ValidationError, match=named):
        SchedulerSettings(**given)


def test_settings_cannot_be_changed_once_made():
    settings = PredictorSettings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.threads = 3


def test_secrets_are_masked_in_the_log(caplog):
    settings = SchedulerSettings(backend="tgi", backend_url="http://x", backend_token="hush")
    with caplog.at_level(logging.INFO):
        settings.log_masked()
    assert "hush" not in caplog.text
    assert '"backend_token": "***"' in caplog.text
