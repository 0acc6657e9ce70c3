"""Prompts of real traffic for a learner, of tenants that have agreed to it; in memory only, and handed out once.

Which prompts are kept is drawn at random, each of a tenant with the same chance. Where there are more than there is
room for, the tenant with the most gives way, so that none can drive out the others by sending more.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from scheduler_service.domain import Allocation, Job, SchedulingError, Usage

EVERYBODY = "*"
MOST_SAMPLES = 2048
_MOST_CHARACTERS = 16_384  # of a prompt; longer ones are not sampled
_MOST_BYTES = 3 << 20  # of what is handed out at once: a client takes messages of 4 MiB by default


@dataclass(frozen=True)
class Sample:
    """A prompt, and whose it was."""

    prompt: str
    tenant: str


@dataclass
class PromptSamples:
    """An observer that keeps prompts of ``tenants`` (``*``: of all) that were answered, until they are taken.

    ``readers``: the tenants that may take them, where callers have identities.
    """

    tenants: Collection[str]
    readers: Collection[str] = ()
    most: int = MOST_SAMPLES
    rng: random.Random = field(default_factory=random.Random)
    _kept: dict[str, list[str]] = field(default_factory=dict)
    _seen: Counter[str] = field(default_factory=Counter)  # of each tenant that has some kept
    _answered: int = 0

    def agreed(self, tenant: str) -> bool:
        """Whether prompts of ``tenant`` may be sampled."""
        return EVERYBODY in self.tenants or tenant in self.tenants

    def take(self, most: int) -> tuple[list[Sample], int]:
        """Hand out ``most`` prompts at most, of all tenants in turn, and forget the rest.

        They are fewer where they are too long for one message.
        Returns them, and how many prompts of tenants that have agreed were answered since the last call.
        """
        kept, answered = self._kept, self._answered
        self._kept, self._seen, self._answered = {}, Counter(), 0
        for prompts in kept.values():
            self.rng.shuffle(prompts)
        taken: list[Sample] = []
        left = _MOST_BYTES
        while kept and len(taken) < most and left > 0:
            for tenant in list(kept)[: most - len(taken)]:
                sample = Sample(kept[tenant].pop(), tenant)
                left -= len(sample.prompt.encode()) + len(tenant.encode())
                if left <= 0:
                    break
                taken.append(sample)
                if not kept[tenant]:
                    del kept[tenant]
        return taken, answered

    # What observers are told.

    def rejected(self, job: Job, error: SchedulingError) -> None:
        """What was not admitted is no traffic to learn from."""

    def allocated(self, job: Job, allocation: Allocation) -> None:
        """Wait for its end."""

    def finished(self, job: Job, allocation: Allocation, usage: Usage) -> None:
        """Keep its prompt, or let it go, by chance."""
        if not self.agreed(job.tenant) or len(job.prompt) > _MOST_CHARACTERS:
            return
        self._answered += 1
        own = self._kept.get(job.tenant, [])
        full = sum(map(len, self._kept.values())) >= self.most
        largest = max(self._kept, key=lambda tenant: len(self._kept[tenant])) if full else ""
        fewer = full and len(own) < len(self._kept[largest]) - 1
        if full and not own and not fewer:  # a prompt each of as many tenants as there is room for
            return
        self._seen[job.tenant] += 1
        if full and not fewer:  # the reservoir of its own tenant: the n-th prompt stays with the chance size / n
            if (place := self.rng.randrange(self._seen[job.tenant])) < len(own):
                own[place] = job.prompt
            return
        if full:
            self._drop(largest)
        own.append(job.prompt)
        self._kept[job.tenant] = own

    def failed(self, job: Job, allocation: Allocation | None, reason: str) -> None:
        """What could not be answered is no traffic to learn from."""

    def wasted(self, job: Job, tokens: int) -> None:
        """Nothing depends on it."""

    def _drop(self, tenant: str) -> None:
        prompts = self._kept[tenant]
        prompts.pop(self.rng.randrange(len(prompts)))
        if not prompts:
            del self._kept[tenant]
