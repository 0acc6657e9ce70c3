"""What operators see of requests: metrics, spans, and the journal of the last ones."""
