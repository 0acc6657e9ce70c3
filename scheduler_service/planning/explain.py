"""Why a request got its budget, in one word and in a sentence. Pure."""

from __future__ import annotations

from scheduler_service.domain import Allocation, BudgetLimit, Job, PredictionOutcome

_NOTHING = 1e-9  # gains below it are rounding


def best_further_gain(allocation: Allocation) -> float:
    """The most accuracy per expected token that any larger budget brings, beyond the one that was given."""
    curve, budget = allocation.prediction.curve, allocation.budget_tokens
    reached, spent = curve.accuracy_at(budget), curve.used_at(budget)
    return max(
        (
            (accuracy - reached) / max(_NOTHING, curve.used_at(point) - spent)
            for point, accuracy in zip(curve.points, curve.accuracy, strict=True)
            if point > budget
        ),
        default=0.0,
    )


def explain(job: Job, allocation: Allocation) -> tuple[BudgetLimit, str]:
    """Say what kept the budget of ``job`` from being larger."""
    given = f"{allocation.budget_tokens} tokens (uniform: {allocation.baseline_tokens})"
    if allocation.prediction.curve.used:
        given += f", of which {allocation.expected_tokens:.0f} are expected to be used"
    if allocation.prediction.outcome is not PredictionOutcome.FRESH:
        prediction = allocation.prediction
        reason = prediction.outcome.value + (f": {prediction.reason}" if prediction.reason else "")
        return BudgetLimit.NO_PREDICTION, f"{given}: no fresh prediction ({reason}), so the uniform budget"
    more = best_further_gain(allocation)
    worth = job.weight * more
    gain = f"a token more is expected to gain {more:.3g}"
    if job.weight != 1:
        gain += f", which is worth {worth:.3g} at a weight of {job.weight:.3g}"
    floor = ", and this is the least budget" if allocation.budget_tokens <= allocation.floor_tokens else ""
    if allocation.cap_tokens < job.cap_tokens and allocation.budget_tokens >= allocation.cap_tokens:
        return BudgetLimit.DEADLINE, f"{given}: the deadline leaves time for no more; {gain}"
    if more <= _NOTHING:
        return BudgetLimit.SATURATED, f"{given}: more tokens are not expected to help{floor}"
    if allocation.budget_tokens >= allocation.cap_tokens:
        return BudgetLimit.CAP, f"{given}: the largest budget that is allowed; {gain}"
    if allocation.policy == "uniform":
        return BudgetLimit.UNIFORM, f"{given}: no plan was expected to do better than uniform"
    if not allocation.price:
        return BudgetLimit.WINDOW, f"{given}: {gain}, less than for others of the {allocation.window_size}{floor}"
    if worth < allocation.price:
        return BudgetLimit.PRICE, f"{given}: {gain}, less than the price of {allocation.price:.3g}{floor}"
    return BudgetLimit.BANK, f"{given}: {gain}, more than the price, but the ledger cannot pay for it now{floor}"
