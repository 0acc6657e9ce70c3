"""How fast tenants may come: what is charged late blocks what comes after."""

from scheduler_service.admission.rates import Rate, TenantRates


def test_tokens_are_charged_when_they_are_known_and_block_what_comes_after():
    rates = TenantRates(Rate(0, 1), Rate(100, 1))
    assert rates.refusal("a", 0.0) is None
    rates.tokens.charge("a", 350, 0.0)
    what, seconds = rates.refusal("a", 1.0)
    assert "100 tokens a second" in what
    assert 1.4 < seconds < 1.6
    assert rates.refusal("b", 1.0) is None
    assert rates.refusal("a", 2.6) is None
