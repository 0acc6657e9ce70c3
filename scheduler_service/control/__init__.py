"""Holding latency objectives: what mean budget the load allows, and what must be refused. Pure; the time is given."""
