"""The HTTP front that OpenAI's clients call: chat completions and responses."""
