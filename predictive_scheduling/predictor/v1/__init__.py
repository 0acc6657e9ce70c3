"""Generated stubs of the predictor's API."""
