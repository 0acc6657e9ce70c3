"""What is told of requests: metrics, spans, and the journal of the last ones."""
