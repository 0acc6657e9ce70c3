"""Who calls LiteLLM's proxy, without its database: a key ``team-NAME`` is one of team NAME. Runs in the proxy.

A key ``limited`` may ask model ``m`` once a minute.
"""

from fastapi import Request
from litellm.proxy._types import UserAPIKeyAuth


async def by_key(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Let everybody in."""
    _, _, team = api_key.partition("team-")
    limits = {"model_rpm_limit": {"m": 1}} if api_key == "limited" else {}
    return UserAPIKeyAuth(api_key=api_key, team_id=team or None, metadata=limits)
