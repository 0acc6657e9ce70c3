"""A running scheduler as the loop sees it: prompts of tenants that have agreed, and how busy the LLM server is."""

from __future__ import annotations

import logging

import grpc

from exporters.learning.idle import Load
from exporters.learning.samples import Sample
from predictive_scheduling.client import AsyncSchedulerClient

log = logging.getLogger(__name__)


class SchedulerUnreachableError(ConnectionError):
    """The scheduler did not answer, or refuses what is asked; the message says which."""


class RunningScheduler:
    """A source of samples and of the load. ``slots``: generations that its LLM server runs at once.

    It hands out each prompt once, so that there is no position to remember.
    """

    position = 0

    def __init__(self, client: AsyncSchedulerClient, slots: int) -> None:
        """Ask through ``client``, which stays the caller's."""
        self._client, self._slots, self._silent = client, slots, False

    async def take(self, most: int) -> list[Sample]:
        """Return what it has collected since the last call. Raises SchedulerUnreachableError."""
        try:
            found = await self._client.take_samples(most)
        except grpc.aio.AioRpcError as error:
            raise SchedulerUnreachableError(
                f"the scheduler gives no samples: {error.code().name}: {error.details()}"
            ) from None
        return [Sample(sample.prompt, sample.tenant) for sample in found.samples]

    async def load(self) -> Load:
        """Return its requests in flight; a scheduler that does not answer counts as busy."""
        try:
            status = await self._client.status()
        except grpc.aio.AioRpcError as error:
            if not self._silent:
                log.warning("the scheduler does not say how busy it is, nothing is measured: %s", error.code().name)
            self._silent = True
            return Load(self._slots, self._slots)
        self._silent = False
        return Load(status.pending_requests, self._slots)

    async def mean_budget(self) -> int:
        """Return the mean reasoning tokens that it grants a request. Raises SchedulerUnreachableError."""
        try:
            return int((await self._client.budget()).tokens_per_query)
        except grpc.aio.AioRpcError as error:
            raise SchedulerUnreachableError(f"the scheduler does not answer: {error.code().name}") from None
