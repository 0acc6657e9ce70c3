"""Budgets for requests that pass through Envoy: an external processor and an access log service, and what they read."""
