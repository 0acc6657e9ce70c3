"""Letters between schedulers: what one was told of a grant that another has decided, by way of a store.

Theory of operation. Envoy writes its access log to any scheduler, and only the one that decided can settle. Several
times a second a scheduler says in the store that it is there, puts letters into the inboxes of the others, and takes
what is in its own, all in one Lua script. So nobody calls anybody: whatever a grant's name says, a letter goes to an
inbox of the store, and only to one whose owner was there the last time.

What always holds: no more than ``_MOST_WAITING`` letters wait here, and no more in an inbox. While the store is away
they wait. A letter to a scheduler that is not there waits for ``_PATIENT`` exchanges, since one that lost the store for
a while, or a store that came back empty, does not know it yet; then it is gone. A letter may come twice, where an
answer of the store was lost, or not at all: a grant has a number of its own, so the first one settles, and what
nobody tells is settled by what was expected (``grants``).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from scheduler_service.gateway.grant_names import GrantName
from scheduler_service.grants import MOST_TOKENS, Told
from scheduler_service.shared_store import SharedScript

_EXCHANGE = """
local beats, inbox = KEYS[1], KEYS[2]
local me, ttl, keep, most, take = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
redis.call('ZREMRANGEBYSCORE', beats, '-inf', now)
redis.call('ZADD', beats, now + ttl, me)
redis.call('EXPIRE', beats, keep)
local full, at = {}, 6
for to = 3, #KEYS do
  local count = tonumber(ARGV[at])
  if redis.call('LLEN', KEYS[to]) + count > most then
    table.insert(full, to - 3)
  else
    redis.call('RPUSH', KEYS[to], unpack(ARGV, at + 1, at + count))
    redis.call('EXPIRE', KEYS[to], keep)
  end
  at = at + count + 1
end
local letters = redis.call('LRANGE', inbox, 0, take - 1)
redis.call('LTRIM', inbox, take, -1)
return {redis.call('ZRANGE', beats, 0, -1), full, letters}
"""
_TTL_SECONDS, _KEEP_SECONDS, _PATIENCE_SECONDS = 5.0, 60, 0.5
_MOST_WAITING = 10_000
_MOST_AT_ONCE = 1000
_PATIENT = 50

_Tokens = Annotated[int, Field(strict=True, ge=0, le=MOST_TOKENS)]
_Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
_LETTER: TypeAdapter[Any] = TypeAdapter(
    tuple[
        Annotated[int, Field(strict=True, ge=1)],
        _Tokens | None,
        _Tokens | None,
        _Tokens,
        Annotated[str, Field(strict=True, max_length=64)],
        _Seconds,
        _Seconds,
    ]
)


class Letter(NamedTuple):
    """What was told of a grant. ``number``: which of the grants of the scheduler that gets it."""

    number: int
    told: Told


class Mailbox:
    """Exchanges letters in ``store`` (a ``redis.asyncio.Redis``) as ``instance``, a name of this process alone.

    ``count`` is told how many letters to others were ``forwarded``, are ``gone`` with whom they were for, or found no
    room here or there (``full``).
    """

    def __init__(
        self, store: Any, instance: str, count: Callable[[str, int], None], key: str = "predictive-scheduling"
    ) -> None:
        """Use ``key`` for what belongs to these schedulers."""
        self._exchange = SharedScript(store, _EXCHANGE, "grants", _PATIENCE_SECONDS)
        self._key, self._instance, self._count = key, instance, count
        self._waiting: dict[str, deque[str]] = {}
        self._held = 0
        self._missed: dict[str, int] = {}
        self._there: frozenset[str] = frozenset()

    @property
    def away(self) -> bool:
        """Whether the store did not answer the last time."""
        return self._exchange.away

    def __len__(self) -> int:
        """How many letters to others wait here."""
        return self._held

    def post(self, name: GrantName, told: Told) -> None:
        """Have it told to the scheduler that decided, with one of the next exchanges."""
        if self._held >= _MOST_WAITING:
            self._count("full", 1)
            return
        self._waiting.setdefault(name.instance, deque()).append(letter_of(name.number, told))
        self._held += 1

    async def exchange(self) -> tuple[list[Letter], bool]:
        """Send what waits and return what has come, and whether there is more of either. Never raises for the store."""
        sending = self._take()
        keys = [f"{{{self._key}}}:{name}" for name in ("settling", f"told:{self._instance}")]
        keys += [f"{{{self._key}}}:told:{name}" for name in sending]
        arguments: list[Any] = [self._instance, _TTL_SECONDS, _KEEP_SECONDS, _MOST_WAITING, _MOST_AT_ONCE]
        for letters in sending.values():
            arguments += [len(letters), *letters]
        answer = None
        try:
            answer = await self._exchange(keys, arguments)
        finally:
            if answer is None:
                self._put_back(sending)
        if answer is None:
            return [], False
        there, full, found = answer
        for at, letters in enumerate(sending.values()):
            self._count("full" if at in full else "forwarded", len(letters))
        self._learn_who_is_there(frozenset(name.decode(errors="replace") for name in there))
        more = len(found) == _MOST_AT_ONCE or any(name in self._there for name in self._waiting)
        return list(read_letters(found)), more

    def _take(self) -> dict[str, list[str]]:
        """Take out the letters to send now: those to whoever was there the last time."""
        taken: dict[str, list[str]] = {}
        room = _MOST_AT_ONCE
        for name in [name for name in self._waiting if name in self._there]:
            letters = self._waiting[name]
            taken[name] = [letters.popleft() for _ in range(min(room, len(letters)))]
            room -= len(taken[name])
            if not letters:
                del self._waiting[name]
            if not room:
                break
        self._held -= _MOST_AT_ONCE - room
        return taken

    def _put_back(self, taken: dict[str, list[str]]) -> None:
        for name, letters in taken.items():
            self._waiting.setdefault(name, deque()).extendleft(reversed(letters))
            self._held += len(letters)

    def _learn_who_is_there(self, there: frozenset[str]) -> None:
        self._there = there
        missed = {name: self._missed.get(name, 0) + 1 for name in self._waiting if name not in there}
        for name in [name for name, times in missed.items() if times > _PATIENT]:
            del missed[name]
            gone = len(self._waiting.pop(name))
            self._held -= gone
            self._count("gone", gone)
        self._missed = missed


def letter_of(number: int, told: Told) -> str:
    """A letter as it stands in an inbox."""
    return json.dumps([
        number, told.completion_tokens, told.reasoning_tokens, told.prompt_tokens, told.failure,
        told.first_token_seconds, told.seconds_per_token,
    ])  # fmt: skip


def read_letters(found: Iterable[bytes]) -> Iterable[Letter]:
    """What stands in an inbox; whatever is no letter, another version's perhaps, is left out."""
    for raw in found:
        try:
            number, *told = _LETTER.validate_json(raw)
        except ValidationError:
            continue
        yield Letter(number, Told(*told))
