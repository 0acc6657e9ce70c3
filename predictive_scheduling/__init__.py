"""Predictive scheduling: one token budget, split across queries where it buys the most accuracy."""

from predictive_scheduling.answers import extract_answer
from predictive_scheduling.client import AsyncSchedulerClient, SchedulerClient
from predictive_scheduling.credentials import channel_credentials
from predictive_scheduling.predictor_client import AsyncPredictorClient, PredictorClient
from predictive_scheduling.version import VERSION as __version__

__all__ = [
    "AsyncPredictorClient",
    "AsyncSchedulerClient",
    "PredictorClient",
    "SchedulerClient",
    "__version__",
    "channel_credentials",
    "extract_answer",
]
