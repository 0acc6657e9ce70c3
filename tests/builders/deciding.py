"""A scheduler at a gateway that gives and settles grants, and has no budget."""

from __future__ import annotations

import secrets

from scheduler_service.gateway.grant_names import GrantName, written


class Deciding:
    """``settled``: what was told of its grants, by their numbers; the first to tell counts."""

    def __init__(self):
        """Nothing is open."""
        self.instance = secrets.token_hex(6)
        self.last, self.settled = 0, {}

    def grant(self, request="mine"):
        """Give a grant; returns its name."""
        self.last += 1
        return written(GrantName(self.instance, self.last), ("gold", request))

    def settle(self, number, told):
        """End a grant; returns whether it was open."""
        if number in self.settled or not 0 < number <= self.last:
            return False
        self.settled[number] = told
        return True
