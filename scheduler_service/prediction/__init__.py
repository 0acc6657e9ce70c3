"""Asks the predictor, guards against its failures, and learns how far it is to be trusted."""
