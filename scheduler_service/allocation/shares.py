"""Fair shares of a total among tenants: weighted max-min fairness, by progressive filling."""

from __future__ import annotations

from collections.abc import Mapping


def max_min_shares(total: int, demands: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, int]:
    """Split ``total`` tokens among tenants that ask for ``demands``, in proportion to ``weights``.

    Nobody gets more than the demand, and what one leaves is lent to the others in proportion (Bertsekas and Gallager
    1992, section 6.5.2): a tenant with demand gets at least its weighted share of the total. Whole tokens; the few that
    rounding leaves go by name. Raises ValueError for a weight that is not positive.
    """
    if any(weights.get(tenant, 1.0) <= 0 for tenant in demands):
        raise ValueError("weights: must be above 0")
    shares = dict.fromkeys(demands, 0)
    left = min(total, sum(demands.values()))
    while left > 0:
        hungry = [tenant for tenant in sorted(demands) if shares[tenant] < demands[tenant]]
        weight = sum(weights.get(tenant, 1.0) for tenant in hungry)
        given = 0
        for tenant in hungry:
            part = min(int(left * weights.get(tenant, 1.0) / weight), demands[tenant] - shares[tenant])
            shares[tenant] += part
            given += part
        if not given:  # less than a token for each: one by one
            shares[hungry[0]] += 1
            given = 1
        left -= given
    return shares
