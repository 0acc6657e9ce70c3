"""What the settings of both services share: secrets, and how they are told in the log."""

import logging

import pytest

from scheduler_service.settings import SchedulerSettings


def test_secrets_come_from_files_and_the_environment_beats_them(tmp_path, monkeypatch):
    (tmp_path / "scheduler_backend_token").write_text("from-a-file\n")
    (tmp_path / "SCHEDULER_SHARED_BUDGET_URL").write_text("redis://:password@store")
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    given = {"backend": "embedded", "budget_per": "second", "budget_tokens": 1000}
    settings = SchedulerSettings(**given)
    assert settings.backend_token.get_secret_value() == "from-a-file"
    assert settings.shared_budget_url.get_secret_value() == "redis://:password@store"
    monkeypatch.setenv("SCHEDULER_BACKEND_TOKEN", "from-the-environment")
    assert SchedulerSettings(**given).backend_token.get_secret_value() == "from-the-environment"
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="SECRETS_DIR"):
        SchedulerSettings(**given)


def test_secrets_are_masked_in_the_log(caplog):
    settings = SchedulerSettings(backend="tgi", backend_url="http://x", backend_token="hush")
    with caplog.at_level(logging.INFO):
        settings.log_masked()
    assert "hush" not in caplog.text
    assert '"backend_token": "***"' in caplog.text
