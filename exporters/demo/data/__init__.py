"""Data that the demo's predictor and adapter were trained on; all of it made by this project."""
