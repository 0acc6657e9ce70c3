"""Settles what a gateway's access log tells: this scheduler's own grants here, those of another by the mailbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from scheduler_service.gateway.budgets import GatewayBudgets
from scheduler_service.gateway.grant_names import read
from scheduler_service.gateway.mailbox import Mailbox
from scheduler_service.grants import Told

log = logging.getLogger(__name__)

_EVERY_SECONDS = 0.2


class Settling:
    """Takes what is told of grants, whoever decided. ``run`` must be running where there is a mailbox.

    ``count`` is told what became of it: ``settled``; ``closed``, where the grant was not open any more; ``elsewhere``,
    where another scheduler decided and there is no mailbox; ``unread``, where it names no grant.
    """

    def __init__(self, budgets: GatewayBudgets, count: Callable[[str], None], mailbox: Mailbox | None = None) -> None:
        """Settle by ``budgets``, and by ``mailbox`` what it has not decided."""
        self._budgets, self._count, self._mailbox = budgets, count, mailbox
        self._warned = False

    def tell(self, grant: str, told: Told) -> None:
        """Settle by a grant's name, or have it settled by who decided."""
        name = read(grant)
        if name is None:
            self._count("unread")
        elif name.instance == self._budgets.instance:
            self._settle(name.number, told)
        elif self._mailbox is not None:
            self._mailbox.post(name, told)
        else:
            self._count("elsewhere")
            self._warn()

    async def run(self) -> None:
        """Exchange letters with the other schedulers, until cancelled."""
        while True:
            if not await self.exchange():
                await asyncio.sleep(_EVERY_SECONDS)

    async def exchange(self) -> bool:
        """Send what others have to know, and settle what they say, once; returns whether there is more."""
        if self._mailbox is None:
            return False
        letters, more = await self._mailbox.exchange()
        for letter in letters:
            self._settle(letter.number, letter.told)
        return more

    def _settle(self, number: int, told: Told) -> None:
        self._count("settled" if self._budgets.settle(number, told) else "closed")

    def _warn(self) -> None:
        if not self._warned:
            log.warning("a gateway tells of grants of another scheduler: several need shared_budget_url to settle them")
        self._warned = True
