"""The exporters' commands; ``predictive-scheduling`` shows them under "Make predictors"."""
