"""Who may come in: in-flight requests, quotas and rates."""
