"""What a gateway asks: a request's budget in its body, and later its account. Knows HTTP as values, and no Envoy.

Theory of operation. ``decide`` is given a request's body and what its headers say; it reads the prompt and the caller's
own limits, gets a grant as for any other request, and returns the body with the budget in it. The grant's name travels
to the engine and into Envoy's access log as a header, so that whoever learns what was used can tell by it: the
processor where the response passes through it, else the access log (``settling``). Both may; the first one counts.

What always holds: whatever cannot be read, decided or granted passes unchanged, and is counted with its reason; only
what admission refuses (too much in flight, a quota, a rate) is answered instead.
"""

from __future__ import annotations

import logging
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scheduler_service.api.budget_words import Limit
from scheduler_service.api.budget_words import read as read_words
from scheduler_service.api.intake import Credentials, Intake, within
from scheduler_service.domain import Allocation, Job, OverloadedError, QuotaExceededError, SchedulingError
from scheduler_service.gateway import bodies
from scheduler_service.gateway.bodies import Body, UnreadableError
from scheduler_service.gateway.grant_names import GrantName, written
from scheduler_service.grants import Grants, Told

log = logging.getLogger(__name__)

REQUEST_HEADER = "x-predictive-scheduling-request"
BUDGET_HEADER = "x-predictive-scheduling-budget"
USAGE_HEADER = "x-predictive-scheduling-usage"
OURS = (REQUEST_HEADER, BUDGET_HEADER, USAGE_HEADER)
_USAGE = "stream_options.include_usage"
_MOST_ID, _MOST_PROMPT, _MOST_CHOICES = 128, 1 << 20, 64


@dataclass(frozen=True)
class Way:
    """How a gateway wants budgets.

    ``budget_field``: the engine's own field for a thinking budget (a path with dots); empty where it has none, and
    ``max_tokens`` is set to budget and answer. ``tenant_header``: names the tenant. ``adds_usage``: ask streams for
    their usage where the caller did not; ``None``: where the response passes through the processor, which takes it out.
    """

    budget_field: str = ""
    tenant_header: str = "x-tenant-id"
    adds_usage: bool | None = None


@dataclass(frozen=True)
class Seen:
    """A request at the gateway. ``headers``: by their names in lower case. ``returns``: its response passes through."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    returns: bool = False


@dataclass(frozen=True)
class Decision:
    """A request's new body, and headers to set. ``grant``: its number. ``usage_added``: we asked for its usage."""

    body: bytes
    headers: Mapping[str, str]
    grant: int
    streamed: bool
    usage_added: bool


class GatewayBudgets:
    """Decides and settles for gateways. ``instance``: this process in the names of its grants."""

    def __init__(self, grants: Grants, intake: Intake, way: Way, count: Callable[[str], None]) -> None:
        """Grant by ``grants`` to whom ``intake`` lets in; ``count`` is told of each request what became of it."""
        self._grants, self._intake, self._way, self._count = grants, intake, way, count
        self.instance = secrets.token_hex(6)

    async def decide(self, seen: Seen) -> Decision | None:
        """Return what to do with a request; ``None``: it passes as it is.

        Raises OverloadedError and QuotaExceededError.
        """
        try:
            body = self._read(seen)
            job = self._job(body, seen.headers)
            allocation = await self._grants.grant(job)
        except UnreadableError as error:
            self._count(f"unread_{error}")
            return None
        except (OverloadedError, QuotaExceededError):
            self._count("refused")
            raise
        except SchedulingError as error:
            self._count(type(error).__name__.removesuffix("Error").lower())
            return None
        except Exception:
            log.exception("a request passes without a budget by a fault of ours")
            self._count("fault")
            return None
        self._count("decided")
        return self._decision(body, allocation, job.key, seen)

    def settle(self, grant: int, told: Told) -> bool:
        """End a grant by its number; returns whether it was open."""
        return self._grants.settle(grant, told) is not None

    def _read(self, seen: Seen) -> Body:
        raw = bodies.inflate(seen.body, seen.headers.get("content-encoding", ""))
        body = bodies.read(raw, bodies.prompt_field(seen.headers.get(":path", "")))
        if len(body.prompt.encode(errors="replace")) > _MOST_PROMPT:
            raise UnreadableError("size")
        if body.choices > _MOST_CHOICES:
            raise UnreadableError("choices")
        return body

    def _job(self, body: Body, headers: Mapping[str, str]) -> Job:
        """The job of a body. Raises what intake raises, InvalidRequestError for words that contradict each other."""
        who = Credentials(headers.get("authorization", ""))
        self._intake.admit(who)
        tenant = self._intake.tenant(who, headers.get(self._way.tenant_header, ""))
        name = headers.get("x-request-id", "")
        if not 0 < len(name.encode()) <= _MOST_ID or self._grants.taken((tenant, name)):
            name = uuid.uuid4().hex
        words, budgets = read_words(body.fields), self._intake.served.budgets
        cap = budgets.cap if words.cap is None else min(budgets.cap, words.cap)
        floor = min(cap, budgets.floor if words.floor is None else words.floor)
        job = Job(
            request_id=name,
            prompt=body.prompt.encode(errors="replace").decode(),
            tenant=tenant,
            floor_tokens=floor,
            cap_tokens=cap,
            priority=words.priority,
            traces=body.choices,
            weight=words.weight,
        )
        if words.completion is None:
            return job
        every = Limit(words.completion.tokens * body.choices, words.completion.field)  # it is each answer's own
        return within(job, every, budgets.answer, fixed=False)

    def _decision(self, body: Body, allocation: Allocation, key: tuple[str, str], seen: Seen) -> Decision:
        way = self._way
        each = allocation.budget_tokens // body.choices
        values: dict[str, int | bool] = {}
        if way.budget_field:
            values[way.budget_field] = each
        else:
            most = each + allocation.answer_tokens
            name = body.limit_field
            own = body.number(name)
            values[name] = most if own is None else min(own, most)
        wants_usage = seen.returns if way.adds_usage is None else way.adds_usage
        adds = wants_usage and body.streamed and not body.reports_usage and body.prompt_field != "input"
        if adds:
            values[_USAGE] = True
        grant = self._grants.number(key)
        headers = {REQUEST_HEADER: written(GrantName(self.instance, grant), key), BUDGET_HEADER: str(each)}
        if adds:
            headers[USAGE_HEADER] = "added"
        return Decision(bodies.rewritten(body, values), headers, grant, body.streamed, adds)
