"""Predictive scheduling: one token budget, split across queries where it buys the most accuracy."""

from predictive_scheduling.client import AsyncSchedulerClient, SchedulerClient
from predictive_scheduling.version import VERSION as __version__

__all__ = ["AsyncSchedulerClient", "SchedulerClient", "__version__"]
