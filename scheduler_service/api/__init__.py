"""The ways in: gRPC, OpenAI-compatible HTTP, and the status page; one intake and one table of errors for all."""
