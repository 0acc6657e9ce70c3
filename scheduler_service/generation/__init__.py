"""Runs a request on an LLM server within its budget, and forces an answer where the budget ends."""
