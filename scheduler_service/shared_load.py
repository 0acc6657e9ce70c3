"""The load of several schedulers before the same engines: each tells its own in a store, and hears that of the others.

Theory of operation. Whoever holds latency objectives goes by the load of the whole fleet, of which a scheduler sees its
own part only. Once a second it writes its part into the store and reads the others', in one Lua script, by the store's
clock. All then decide by the same sums, and so come to the same mean budget. What is not renewed within ``ttl`` is gone
with its scheduler. While the store is away, the others are taken to have as much as this one each, as many as were
last heard: a balancer before the schedulers sees to that.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass, fields
from typing import Any

from scheduler_service.shared_store import SharedScript

_EXCHANGE = """
local loads, beats = KEYS[1], KEYS[2]
local me, ttl, mine = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', beats, '-inf', now)) do
  redis.call('HDEL', loads, gone)
  redis.call('ZREM', beats, gone)
end
redis.call('HSET', loads, me, mine)
redis.call('ZADD', beats, now + ttl, me)
redis.call('EXPIRE', loads, math.ceil(60 * ttl))
redis.call('EXPIRE', beats, math.ceil(60 * ttl))
local found = {}
for _, name in ipairs(redis.call('ZRANGE', beats, 0, -1)) do
  if name ~= me then
    table.insert(found, redis.call('HGET', loads, name) or '')
  end
end
return found
"""
_TTL_SECONDS = 5.0
_PATIENCE_SECONDS = 0.5
_MOST = 1e15  # that a load may say: beyond all fleets, and sums of it are finite


@dataclass(frozen=True)
class Load:
    """What a scheduler sees. ``arrivals`` and ``tokens``: a second. ``running``, ``waiting``: requests, in slots and
    without one. ``outstanding``: tokens promised and not yet generated. ``slots``: the most requests that it runs.
    """

    arrivals: float = 0.0
    running: float = 0.0
    waiting: float = 0.0
    tokens: float = 0.0
    outstanding: float = 0.0
    slots: float = 0.0

    def __add__(self, other: Load) -> Load:
        """Add what another one sees."""
        return Load(*(own + others for own, others in zip(astuple(self), astuple(other), strict=True)))

    def times(self, count: int) -> Load:
        """Return what so many schedulers see that each see this."""
        return Load(*(count * own for own in astuple(self)))


class SharedLoad:
    """Exchanges loads in ``store`` (a ``redis.asyncio.Redis``) as ``replica``, a name of this process alone.

    ``others``: how many other schedulers were last heard.
    """

    def __init__(self, store: Any, replica: str, key: str = "predictive-scheduling") -> None:
        """Use ``key`` for what belongs to these schedulers."""
        self._exchange = SharedScript(store, _EXCHANGE, "load", _PATIENCE_SECONDS)
        self._keys = [f"{{{key}}}:{name}" for name in ("loads", "load-beats")]
        self._replica = replica
        self.others = 0

    @property
    def away(self) -> bool:
        """Whether the store did not answer the last time."""
        return self._exchange.away

    async def exchange(self, own: Load) -> Load:
        """Tell ``own`` and return the sum of the others'. Never raises for the store."""
        found = await self._exchange(self._keys, [self._replica, _TTL_SECONDS, json.dumps(astuple(own))])
        if found is None:
            return own.times(self.others)
        # Who writes what is no load, another version perhaps, is taken to have as much as this one.
        loads = [read_load(raw) or own for raw in found]
        self.others = len(loads)
        return sum(loads, Load())


def read_load(raw: bytes | str) -> Load | None:
    """Return what a scheduler wrote; ``None`` for anything that is no load."""
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or len(values) != len(fields(Load)):
        return None
    if not all(isinstance(value, (int, float)) and 0 <= value <= _MOST for value in values):
        return None
    return Load(*map(float, values))
