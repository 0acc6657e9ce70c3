"""A chat completion as a callback in a gateway sees it: what it asks for, how a budget gets in, what it used. Pure.

Bodies are anybody's JSON: what is not understood is left to the engine, which says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from predictive_scheduling.chat_prompt import joined, turns_of

_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh"})
_MOST = 2**32 - 1
_MOST_PROMPT_BYTES = 1 << 20
_MOST_CHOICES = 64


@dataclass(frozen=True)
class Asked:
    """What a chat completion asks for. ``choices``: answers, which share the budget.

    ``completion_tokens``: the most tokens of reasoning and answer that the caller allows each answer, ``None`` where it
    does not say. ``effort``: OpenAI's word; empty where it says none.
    """

    prompt: str
    choices: int = 1
    completion_tokens: int | None = None
    effort: str = ""

    @property
    def all_tokens(self) -> int | None:
        """The most tokens of all answers together."""
        return None if self.completion_tokens is None else min(_MOST, self.completion_tokens * self.choices)

    def job_fields(self) -> dict[str, Any]:
        """The caller's words as fields of the proto's ``Job``."""
        effort = {"effort": f"EFFORT_{self.effort.upper()}"} if self.effort else {}
        return {"prompt": self.prompt, "traces": self.choices, **effort}


def asked_of(body: Mapping[str, Any]) -> Asked | None:
    """Return what a body asks for; ``None`` where there is no text, or more of anything than a scheduler takes.

    So, too, where the number of answers is none: engines take "8" for eight, and each would get the budget of all.
    """
    prompt = prompt_of(body.get("messages"))
    choices = 1 if body.get("n") is None else _whole(body.get("n"))
    if not prompt or len(prompt.encode()) > _MOST_PROMPT_BYTES or not choices or choices > _MOST_CHOICES:
        return None
    effort = body.get("reasoning_effort")
    known = effort if isinstance(effort, str) and effort in _EFFORTS else ""
    return Asked(prompt, choices, _completion_tokens(body), known)


def prompt_of(messages: Any) -> str:
    """Return the text of chat messages: a lone one as it is, several each after its role; empty where there is none."""
    return joined(turns_of(messages)) if isinstance(messages, list) else ""


def budgeted(body: Mapping[str, Any], budget_tokens: int, answer_tokens: int, field: str) -> dict[str, Any]:
    """Return a copy of ``body`` with an answer's budget in it; a lower limit of the caller's own stays.

    ``field``: the engine's own for a thinking budget, a path with dots, which goes into LiteLLM's ``extra_body``. Empty
    where the engine has none: then budget and answer together are the most tokens of the completion.
    """
    if field:
        return _with_field(body, budget_tokens, field)
    name = "max_completion_tokens" if _whole(body.get("max_completion_tokens")) is not None else "max_tokens"
    own = _whole(body.get(name))
    most = budget_tokens + answer_tokens
    return {**body, name: most if own is None else min(own, most)}


def used_of(usage: Mapping[str, Any]) -> dict[str, int]:
    """Return an OpenAI ``usage`` as fields of ``SettleRequest``; what is not told, or is no number, is not there.

    No reasoning tokens may mean that an engine does not tell them apart, so 0 is not told either.
    """
    completion = _whole(usage.get("completion_tokens"))
    details = usage.get("completion_tokens_details")
    reasoning = _whole(details.get("reasoning_tokens")) if isinstance(details, Mapping) else None
    found = {"prompt_tokens": _whole(usage.get("prompt_tokens")) or 0}
    if completion is not None:
        found["completion_tokens"] = completion
    if reasoning and completion is not None:
        found["reasoning_tokens"] = min(reasoning, completion)
    return found


def pace_of(granted: float, first: float, last: float, completion_tokens: int) -> dict[str, float]:
    """Return a stream's times as fields of ``SettleRequest``.

    ``granted``, ``first``, ``last``: when its budget, its first and its last token came, in seconds of one clock.
    """
    found = {"first_token_seconds": max(0.0, first - granted)}
    if completion_tokens > 1:
        found["seconds_per_token"] = max(0.0, last - first) / (completion_tokens - 1)
    return found


def _with_field(body: Mapping[str, Any], budget_tokens: int, field: str) -> dict[str, Any]:
    top, *below = field.split(".")
    changed = dict(body)
    extra = dict(body["extra_body"]) if isinstance(body.get("extra_body"), dict) else {}
    if top in changed:  # the caller's own, which LiteLLM would send beside ours
        extra.setdefault(top, changed.pop(top))
    place, name = extra, top
    for deeper in below:
        place[name] = dict(place[name]) if isinstance(place.get(name), dict) else {}
        place, name = place[name], deeper
    own = _whole(place.get(name))
    place[name] = budget_tokens if own is None else min(own, budget_tokens)
    return {**changed, "extra_body": extra}


def _completion_tokens(body: Mapping[str, Any]) -> int | None:
    """The newer of OpenAI's two names wins. 0 is the engine's to refuse."""
    newer = _whole(body.get("max_completion_tokens"))
    return (_whole(body.get("max_tokens")) if newer is None else newer) or None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else None
