"""A callback of LiteLLM's proxy: each chat completion gets its reasoning budget, and is settled by what it used.

``litellm_settings: callbacks: [predictive_scheduling.litellm.callback]`` in the proxy's ``config.yaml`` loads it; the
environment says where the scheduler is (``LiteLlmSettings``).

Theory of operation. LiteLLM calls ``async_pre_call_hook`` for a request of its proxy; there the grant is asked for. It
travels in the request's metadata, as an object that no caller's JSON can be. ``async_pre_call_deployment_hook`` is
called for each try, by retries and fallbacks too, and writes the budget where the model is one that gets budgets. In
the end LiteLLM calls one of ``async_log_success_event`` (answers, also those whose client has left: a stream's is then
what came until then) and ``async_post_call_failure_hook`` (after the last try; ``async_log_failure_event`` comes with
the first). What is never settled, since the proxy ended, counts as expected after the scheduler's ``grant_seconds``.

Where LiteLLM's own rate limits refuse a request after us, it calls ``async_pre_call_hook`` again for the fallbacks,
with a copy of the first body. What was granted is then still known by the context, which is one request's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from fastapi import HTTPException
from litellm.exceptions import Timeout
from litellm.integrations.custom_logger import CustomLogger
from pydantic import BaseModel

from predictive_scheduling.chat_budgets import asked_of, budgeted, pace_of, used_of
from predictive_scheduling.client import AsyncSchedulerClient
from predictive_scheduling.credentials import channel_credentials
from predictive_scheduling.granting import Granted, Granting, TooMuchError
from predictive_scheduling.litellm_settings import LiteLlmSettings

log = logging.getLogger(__name__)

_KEY = "predictive_scheduling"  # of the grant, in a request's metadata
_of_this_request: ContextVar[Granted | None] = ContextVar("_of_this_request", default=None)
_CHATS = frozenset({"completion", "acompletion"})


class BudgetCallback(CustomLogger):
    """Gives LiteLLM's chat completions their budgets."""

    def __init__(self, settings: LiteLlmSettings) -> None:
        """Ask the scheduler of ``settings``. Raises OSError for a ``ca`` that cannot be read."""
        super().__init__()
        credentials = channel_credentials(settings.ca) if settings.ca else None
        token = settings.token.get_secret_value()
        self._settings = settings
        self._granting = Granting(
            lambda: AsyncSchedulerClient(settings.scheduler, credentials=credentials, token=token),
            settings.timeout_ms / 1000,
        )

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any] | None:
        """Reserve a request's budget. Raises HTTPException, 429, where the scheduler says that it is too much."""
        metadata = data.get("metadata")
        if call_type not in _CHATS or not isinstance(metadata, dict):
            return None
        try:
            granted = _of_this_request.get() or await self._grant(user_api_key_dict, data)
        except TooMuchError as error:
            retry = {"retry-after": str(max(1, math.ceil(error.retry_seconds)))}
            raise HTTPException(status_code=429, detail={"error": str(error)}, headers=retry) from None
        except Exception:
            log.exception("a request goes on without a budget, by a fault of ours")
            return None
        if granted is not None:
            metadata[_KEY] = granted
            _of_this_request.set(granted)
        return data

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> dict[str, Any] | None:
        """Write the budget into a try of a request, where its model gets budgets."""
        granted = _granted(kwargs)
        if granted is None or not self._settings.budgets(_group(kwargs)):
            return None
        return budgeted(kwargs, granted.budget_tokens, granted.answer_tokens, self._settings.budget_field)

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: datetime, end_time: datetime
    ) -> None:
        """Settle an answered request by its usage; also one whose client left after the first token."""
        params = kwargs.get("litellm_params") or {}
        if kwargs.get("cache_hit"):
            told: dict[str, Any] = {"completion_tokens": 0, "failure": "cached"}
        elif not self._settings.budgets(_group(params)):
            told = {"completion_tokens": 0, "failure": "fallback"}
        else:
            told = _told(getattr(response_obj, "usage", None))
            first, granted = kwargs.get("completion_start_time"), _granted(params)
            if kwargs.get("stream") and granted is not None and isinstance(first, datetime):
                times = granted.at, first.timestamp(), end_time.timestamp()
                told |= pace_of(*times, told.get("completion_tokens", 0))
        self._settle(_granted(params), **told)

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        """Settle a request that failed, after LiteLLM's last try; what it had generated until then counts."""
        told = _told(request_data.get("combined_usage_object"))
        told.setdefault("completion_tokens", 0)
        if isinstance(original_exception, Timeout) and not told["completion_tokens"]:
            del told["completion_tokens"]  # what its engine has generated, nobody knows
        self._settle(_granted(request_data), **told, failure=type(original_exception).__name__)

    async def _grant(self, key: Any, data: dict[str, Any]) -> Granted | None:
        asked = asked_of(data) if self._settings.budgets(data.get("model")) else None
        return None if asked is None else await self._granting.grant(asked, self._tenant(key, data))

    def _tenant(self, key: Any, data: dict[str, Any]) -> str:
        """The tenant of a request: that of the token, or a header's, or the team of its key."""
        if self._settings.token.get_secret_value():
            return ""
        if self._settings.tenant_header:
            headers = (data.get("proxy_server_request") or {}).get("headers") or {}
            return str(headers.get(self._settings.tenant_header.lower(), ""))
        return getattr(key, "team_id", None) or ""

    def _settle(self, granted: Granted | None, **told: Any) -> None:
        if granted is not None:
            self._granting.settle(granted, **told)


def _metadata(request: Mapping[str, Any]) -> Mapping[str, Any]:
    found = request.get("metadata")
    return found if isinstance(found, dict) else {}


def _granted(request: Mapping[str, Any]) -> Granted | None:
    """A request's grant; what a caller itself wrote into its metadata is none."""
    found = _metadata(request).get(_KEY)
    return found if isinstance(found, Granted) else None


def _group(request: Mapping[str, Any]) -> object:
    """The name by which LiteLLM's configuration knows the model of a try."""
    return _metadata(request).get("model_group")


def _told(usage: Any) -> dict[str, Any]:
    return dict(used_of(usage.model_dump())) if isinstance(usage, BaseModel) else {}


callback = BudgetCallback(LiteLlmSettings())
