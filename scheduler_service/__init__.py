"""The scheduler: splits a token budget across requests and runs each one within its share."""
