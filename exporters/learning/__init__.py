"""The loop that makes and keeps predictors from real traffic, without labels: ``predictive-scheduling learn``."""
