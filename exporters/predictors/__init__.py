"""Trains predictors of every kind, and exports them to ONNX with parity measured."""
