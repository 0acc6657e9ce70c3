"""A Lua script in a store that schedulers share, for those who go on without the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(__name__)


class SharedScript:
    """``script`` in ``store`` (a ``redis.asyncio.Redis``), of which ``what`` is shared.

    ``away``: whether the store did not answer the last time, which is logged when it changes.
    """

    def __init__(self, store: Any, script: str, what: str, patience_seconds: float) -> None:
        """Wait for an answer for so long."""
        self._run = store.register_script(script)
        self._what, self._patience = what, patience_seconds
        self.away = False

    async def __call__(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Return what the script returns, or ``None`` where the store does not answer. Never raises for the store."""
        try:
            async with asyncio.timeout(self._patience):
                found = await self._run(keys=keys, args=args)
        except Exception as error:  # the store's library raises its own and the system's
            _stop_if_cancelled()
            if not self.away:
                log.warning("the store of the shared %s is away, going on without it: %r", self._what, error)
            self.away = True
            return None
        _stop_if_cancelled()
        if self.away:
            log.info("the store of the shared %s is back", self._what)
        self.away = False
        return found


def _stop_if_cancelled() -> None:
    """Raise the cancellation that the store's library turned into an error of its connection, or into nothing."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
