"""The predictor: how much better a query's answer gets with reasoning tokens, before any is generated."""
