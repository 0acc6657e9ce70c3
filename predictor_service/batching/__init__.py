"""Gathers queries in batches: which run together, and when."""
