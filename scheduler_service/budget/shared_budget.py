"""One budget for several schedulers: leases of tokens from a store (Redis or Valkey), renewed while this one lives.

Theory of operation. The store holds the budget's pool: a token bucket that fills at the budget's rate. A scheduler
beats every ``interval``: it says what it holds, and asks for what it will need until the next beats. What it was given
and has not spent is its lease. One Lua script does a beat, so that it is atomic, and takes the time from the store, so
that the schedulers' clocks do not matter.

* A scheduler that dies stops beating; after ``ttl`` its lease returns to the pool. What it had spent of it since its
  last beat is then spent twice: never more than the lease.
* While the store is away, a scheduler continues with its lease, then gives itself its fair share: the rate divided by
  the schedulers that were last seen. When the store is back, the pool is charged for it. A store that comes back empty
  starts as a new one: with what the rate brings in one ``ttl``.
* An answer may be lost after the store has given or taken tokens. So beats are numbered, and each says which answer was
  the last that was heard: what the store did in one after that is undone, and one that comes again is answered again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from scheduler_service.shared_store import SharedScript

_BEAT = """
local pool, leases, beats, answers = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local me, ttl, rate, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local holding, want, advanced = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local number, heard = tonumber(ARGV[8]), tonumber(ARGV[9])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local at = tonumber(redis.call('HGET', pool, 'at'))
local tokens = tonumber(redis.call('HGET', pool, 'tokens') or '0')
local last, last_given, last_charged = string.match(redis.call('HGET', answers, me) or '0 0 0', '(%S+) (%S+) (%S+)')
if tonumber(last) >= number then
  return {tonumber(last) == number and tonumber(last_given) or 0, redis.call('ZCARD', beats), tostring(tokens)}
end
if tonumber(last) ~= heard then
  tokens = tokens + tonumber(last_charged)
end
if at then
  tokens = math.min(limit, tokens + rate * math.max(0, now - at)) - advanced
else
  tokens, advanced = math.min(limit, rate * ttl), 0
end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', beats, '-inf', now)) do
  if gone ~= me then
    tokens = math.min(limit, tokens + tonumber(redis.call('HGET', leases, gone) or '0'))
    redis.call('HDEL', leases, gone)
    redis.call('ZREM', beats, gone)
    redis.call('HDEL', answers, gone)
  end
end
redis.call('ZADD', beats, now + ttl, me)
local alive = redis.call('ZCARD', beats)
local given = 0
if want > 0 then
  given = math.floor(math.max(0, math.min(want, tokens, math.max(tokens / alive, tokens - rate * ttl))))
else
  given = -math.floor(math.min(-want, holding))
end
local charged = advanced + tokens - math.min(limit, tokens - given)
tokens = math.min(limit, tokens - given)
redis.call('HSET', answers, me, string.format('%d %d %.17g', number, given, charged))
redis.call('HSET', pool, 'tokens', tostring(tokens), 'at', tostring(now))
redis.call('HSET', leases, me, tostring(math.max(0, holding + given)))
return {given, alive, tostring(tokens)}
"""


@dataclass
class Deposits:
    """The income of a ledger that lives on leases: what was deposited and not yet taken."""

    pending: float = 0.0

    def of(self, requests: int, seconds: float) -> float:
        """Return what was deposited since it was last taken; requests and seconds do not matter."""
        return self.pending

    def taken(self) -> None:
        """Start again from nothing: the ledger has it in its bank."""
        self.pending = 0.0


class Account(Protocol):
    """The side of a ledger that leases feed."""

    @property
    def bank(self) -> float:
        """Tokens that it holds; negative for a debt."""
        ...


@dataclass(frozen=True)
class Lease:
    """How leases are taken. ``rate``: tokens a second of all schedulers together; ``limit``: most in the pool."""

    rate: float
    limit: float
    interval_seconds: float = 0.2
    ttl_seconds: float = 2.0
    key: str = "predictive-scheduling"


class SharedBudget:
    """Feeds a ledger's ``deposits`` from the store. ``run`` must be running."""

    def __init__(
        self,
        store: Any,
        replica: str,
        lease: Lease,
        account: Account,
        deposits: Deposits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Share the budget in ``store`` (a ``redis.asyncio.Redis``) as ``replica``, a name of this process alone."""
        self._beat = SharedScript(store, _BEAT, "budget", lease.ttl_seconds / 2)
        self._keys = [f"{{{lease.key}}}:{name}" for name in ("pool", "leases", "beats", "answers")]
        self._replica, self._lease, self._account, self._deposits = replica, lease, account, deposits
        self._clock = clock
        self._beaten_at = clock()
        self._advanced = 0.0
        self._spending = 0.0
        self._held = 0.0
        self._beats = self._heard = 0
        self.replicas = 1

    @property
    def away(self) -> bool:
        """Whether the store did not answer the last time."""
        return self._beat.away

    async def run(self) -> None:
        """Renew the lease every interval until cancelled."""
        while True:
            await self.beat()
            await asyncio.sleep(self._lease.interval_seconds)

    async def beat(self) -> None:
        """Renew the lease, or, while the store is away, advance the fair share. Never raises for the store.

        One at a time: a beat that overtakes another would take what that one was given for lost.
        """
        now = self._clock()
        elapsed, self._beaten_at = now - self._beaten_at, now
        holding = self._account.bank + self._deposits.pending
        self._learn_spending(holding, elapsed)
        # What the next four beats will need at the recent rate, and a beat's fair share to begin with.
        beat = self._lease.interval_seconds
        target = max(4 * beat * self._spending, beat * self._lease.rate / self.replicas)
        want = target - holding
        lease = self._lease
        self._beats = number = self._beats + 1
        told = [max(0.0, holding), want, self._advanced, number, self._heard]
        found = await self._beat(self._keys, [self._replica, lease.ttl_seconds, lease.rate, lease.limit, *told])
        if found is None:
            self._advance_share(elapsed)
        else:
            given, alive, _ = found
            self._heard, self._advanced, self.replicas = number, 0.0, int(alive)
            self._deposits.pending += float(given)
        self._held = self._account.bank + self._deposits.pending

    def _learn_spending(self, holding: float, elapsed: float) -> None:
        if elapsed > 0:
            rate = max(0.0, self._held - holding) / elapsed
            self._spending += 0.3 * (rate - self._spending)

    def _advance_share(self, elapsed: float) -> None:
        share = self._lease.rate / self.replicas * elapsed
        room = max(0.0, self._lease.limit / self.replicas - max(0.0, self._account.bank + self._deposits.pending))
        advanced = min(share, room)
        self._deposits.pending += advanced
        self._advanced += advanced
