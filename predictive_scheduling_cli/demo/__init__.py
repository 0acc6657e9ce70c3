"""The demo: predictor, scheduler and a real LLM on this machine, the same questions uniform and scheduled."""
