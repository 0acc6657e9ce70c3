"""The scheduler's settings come from the environment and from flags, and are checked."""

import pytest
from pydantic import ValidationError

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
        ({"backend": "embedded", "policy": "envelope", "tenant_shares": {"a": 0}}, "tenant_shares"),
        ({"backend": "embedded", "policy": "exact", "window_size": 4096}, "window_size"),
        ({"backend": "none", "shared_budget_url": "redis://store"}, "shared_budget_url"),
    ],
)
def test_a_wrong_setting_is_named(given, named):
    with pytest.raises(ValidationError, match=named):
        SchedulerSettings(**given)


@pytest.mark.parametrize(
    "shares",
    [
        {"budget_per": "second", "budget_tokens": 10},
        {"objective": "total p99 1s"},
        {"ext_proc_listen": "127.0.0.1:1"},
        {"ext_proc_listen": "127.0.0.1:1", "budget_per": "window", "policy": "uniform", "budget_tokens": 10},
    ],
)
def test_a_store_is_for_what_schedulers_share(shares):
    SchedulerSettings(backend="none", shared_budget_url="redis://store", **shares)


REPORTED = {"backend": "vllm", "backend_url": "http://vllm:8000"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"reports_listen": "states.sock"}, "reports_listen: must be unix:/path or tcp://host:port"),
        ({"reports_listen": "unix:/run/../states.sock"}, "reports_listen: must be"),
        ({"reports_listen": "tcp://10.0.0.1"}, "reports_listen: must be"),
        ({"reports_listen": "tcp://10.0.0.1:70000"}, "reports_listen: must be"),
        ({"reports_listen": "unix:/run/a.sock", "reports_address": "http://10.0.0.1:1"}, "reports_address: must be"),
        ({"reports_listen": "tcp://0.0.0.0:5070"}, "reports_address: needed.*0.0.0.0"),
        ({"reports_listen": "tcp://[::]:5070"}, "reports_address: needed"),
        ({"reports_listen": "tcp://scheduler:5070"}, "reports_address: needed.*'scheduler' is no ip"),
        ({"reports_listen": "tcp://0.0.0.0:5070", "reports_address": "tcp://scheduler:5070"}, "reports_address: 'sch"),
        ({"reports_listen": "tcp://0.0.0.0:5070", "reports_address": "tcp://0.0.0.0:5070"}, "reports_address: 0.0.0.0"),
        ({"reports_address": "tcp://10.0.0.1:5070"}, "reports_address: needs reports_listen"),
        ({"reports_listen": "unix:/run/a.sock", "backend": "sglang"}, "reports_listen: sglang reports nothing"),
        ({"reports_listen": "unix:/run/a.sock", "policy": "envelope"}, "reports_listen: needs policy price"),
    ],
)
def test_reports_that_could_never_come_are_refused(given, named):
    with pytest.raises(ValidationError, match=named):
        SchedulerSettings(**{**REPORTED, **given})


@pytest.mark.parametrize(
    "given",
    [
        {"reports_listen": "unix:/run/states/scheduler.sock"},
        {"reports_listen": "tcp://127.0.0.1:5070"},
        {"reports_listen": "tcp://[fd00::1]:5070"},
        {"reports_listen": "tcp://0.0.0.0:5070", "reports_address": "tcp://10.0.0.7:5070"},
        {"reports_listen": "unix:/run/a.sock", "reports_address": "unix:/shared/a.sock"},
    ],
)
def test_reports_that_can_come_are_taken(given):
    assert SchedulerSettings(**REPORTED, **given).reports_listen == given["reports_listen"]


def test_tenants_shares_are_read_from_flags_and_from_the_environment(monkeypatch):
    given = {"backend": "embedded", "policy": "envelope"}
    assert SchedulerSettings(**given, tenant_shares="gold=3, free=1").tenant_shares == {"gold": 3, "free": 1}
    monkeypatch.setenv("SCHEDULER_TENANT_SHARES", "gold=2")
    assert SchedulerSettings(**given).tenant_shares == {"gold": 2}
    with pytest.raises(ValidationError, match="tenant_shares"):
        SchedulerSettings(**given, tenant_shares="gold")


def test_the_bank_holds_a_number_of_mean_budgets_unless_it_is_told():
    assert SchedulerSettings(backend="embedded", tokens_per_query=50).bank_tokens == 6400
    assert SchedulerSettings(backend="embedded", tokens_per_query=50, policy="envelope").bank_tokens == 1600
    assert SchedulerSettings(backend="embedded", bank_limit_tokens=0).bank_tokens == 0
